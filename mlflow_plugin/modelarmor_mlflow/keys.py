"""Reviewers' keys: Ed25519, made and kept as PEM files that other tools read too.

A private key lies in ``~/.config/modelarmor/keys/NAME.pem`` (PKCS #8, mode 0600, encrypted where
a passphrase is given), its public half beside it in ``NAME.pub``. `securesystemslib` signs and
checks; nothing here computes anything of its own.
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from securesystemslib.signer import Key, Signer

#: holds the passphrase of a private key, where nobody can be asked
PASSPHRASE_VARIABLE: Final = "MODELARMOR_KEY_PASSPHRASE"

_MAX_BYTES = 1 << 14
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,99}")


class KeyFileError(ValueError):
    """A key that cannot be read, made or used; says which file and what to do."""


class NeedsPassphrase(KeyFileError):
    """A private key that is encrypted."""


@dataclass(frozen=True, slots=True)
class PublicKey:
    """What a signature is checked with."""

    #: SHA-256 of the key, hexadecimal: the ``keyid`` of a signature
    identifier: str
    key: Key
    pem: str

    @classmethod
    def from_pem(cls, text: str) -> PublicKey:
        """Read a public key.

        Raises:
            KeyFileError: it is none, or not Ed25519.
        """
        serialization, ed25519 = _cryptography()
        from securesystemslib.signer import SSlibKey

        try:
            public = serialization.load_pem_public_key(text.encode())
        except ValueError as error:
            raise KeyFileError(f"this is no public key in PEM: {error}") from None
        if not isinstance(public, ed25519.Ed25519PublicKey):
            raise KeyFileError("this key is not Ed25519; `modelarmor keys new` makes one")
        key = SSlibKey.from_crypto(public)
        return cls(identifier=key.keyid, key=key, pem=_public_pem(public))

    @classmethod
    def from_file(cls, file: Path) -> PublicKey:
        """Read a public key from a PEM file; raises `KeyFileError`."""
        text = _read(file)
        try:
            return cls.from_pem(text)
        except KeyFileError as error:
            raise KeyFileError(f"{file}: {error}") from None


def directory() -> Path:
    """Where keys of one's own are kept."""
    base = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return base / "modelarmor" / "keys"


def new(name: str, *, passphrase: str | None, place: Path | None = None) -> tuple[Path, Path]:
    """Make a key pair.

    Args:
        name: of the reviewer; names the files.
        passphrase: encrypts the private key; None leaves it as it is.
        place: instead of `directory`.

    Returns:
        The private and the public file.

    Raises:
        KeyFileError: the name cannot name a file, or there is such a key already.
    """
    if not _NAME.fullmatch(name):
        raise KeyFileError(f"{name!r} should be a name like ada or ada@example.org")
    serialization, ed25519 = _cryptography()
    place = place or directory()
    place.mkdir(parents=True, exist_ok=True, mode=0o700)
    private = ed25519.Ed25519PrivateKey.generate()
    encryption = (
        serialization.BestAvailableEncryption(passphrase.encode())
        if passphrase
        else serialization.NoEncryption()
    )
    pem = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
    )
    secret, public = place / f"{name}.pem", place / f"{name}.pub"
    _create(secret, pem, 0o600)
    try:
        _create(public, _public_pem(private.public_key()).encode(), 0o644)
    except BaseException:
        secret.unlink()  # without its public half it only stands in the way of the next try
        raise
    return secret, public


def own(place: Path | None = None) -> list[Path]:
    """The private keys in `directory`, or in `place`."""
    return sorted((place or directory()).glob("*.pem"))


def signer(file: Path, passphrase: str | None = None) -> Signer:
    """Load a private key to sign with.

    Raises:
        NeedsPassphrase: it is encrypted, and there is no passphrase.
        KeyFileError: it cannot be read, others can read it too, or it is not Ed25519.
    """
    serialization, ed25519 = _cryptography()
    from securesystemslib.signer import CryptoSigner

    text = _read(file)
    mode = stat.S_IMODE(file.stat().st_mode)
    if mode & 0o077:
        raise KeyFileError(f"{file}: others can read it (mode {mode:o}); chmod 600 {file}")
    try:
        private = serialization.load_pem_private_key(
            text.encode(), passphrase.encode() if passphrase else None
        )
    except TypeError:  # cryptography's word for a passphrase that is missing or of no use
        if passphrase is not None:
            return signer(file)
        raise NeedsPassphrase(
            f"{file}: is encrypted; give the passphrase in ${PASSPHRASE_VARIABLE} or when asked"
        ) from None
    except ValueError as error:
        raise KeyFileError(f"{file}: cannot be read as a private key: {error}") from None
    if not isinstance(private, ed25519.Ed25519PrivateKey):
        raise KeyFileError(f"{file}: is not an Ed25519 key; `modelarmor keys new` makes one")
    return CryptoSigner(private)


def _read(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            data = stream.read(_MAX_BYTES + 1)
        if len(data) > _MAX_BYTES:
            raise KeyFileError(f"{file}: is too large for a key")
        return data.decode("ascii")
    except OSError as error:
        raise KeyFileError(f"{file}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise KeyFileError(f"{file}: is no PEM file") from None


def _create(file: Path, data: bytes, mode: int) -> None:
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError:
        raise KeyFileError(f"{file}: exists; a key is never overwritten") from None
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(data)


def _public_pem(public: Any) -> str:
    serialization, _ = _cryptography()
    data: bytes = public.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return data.decode()


def _cryptography() -> tuple[Any, Any]:
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError:
        raise KeyFileError(
            "keys need the package cryptography: pip install 'modelarmor[mlflow]'"
        ) from None
    return serialization, ed25519

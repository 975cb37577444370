"""What bytes are, by themselves: a name says what a file is called, not what a loader finds in it.

A file can be several things at once; the first that applies is what a model's own loader would
most likely take it for. The look (`modelarmor.generate.scan`) does not rest on this: it puts every
file to every reader that could accept it.
"""

from __future__ import annotations

import bz2
import contextlib
import lzma
import pickletools
import re
import struct
import zlib
from collections.abc import Callable, Sequence
from typing import Final

from modelarmor.generate.artifact import zips
from modelarmor.generate.artifact.data import Data

#: how much of the beginning is looked at, in bytes
HEAD: Final = 1 << 16

_MAGIC: Final[tuple[tuple[bytes, str], ...]] = (
    (b"\x89HDF\r\n\x1a\n", "hdf5"),
    (b"GGUF", "gguf"),
    (b"\x93NUMPY", "npy"),
    (b"CBM1", "catboost"),
    (b"binf", "xgboost-binary"),
    (b"{L\0\0\0\0\0\0\0", "xgboost-ubj"),
    (b"tree\nversion=", "lightgbm"),
    (b"\x1f\x8b", "gzip"),
    (b"BZh", "bz2"),
    (b"\xfd7zXZ\0", "xz"),
    (b"\x04\x22\x4d\x18", "lz4"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"7z\xbc\xaf\x27\x1c", "7z"),
    (b"Rar!\x1a\x07", "rar"),
    (b"\x7fELF", "elf"),
    (b"MZ", "pe"),
    (b"\xcf\xfa\xed\xfe", "mach-o"),
    (b"\xca\xfe\xba\xbe", "java-class"),
    (b"PAR1", "parquet"),
    (b"ARROW1", "arrow"),
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"\xff\xd8\xff", "jpeg"),
    (b"#!", "script"),
    (b"<?xml", "xml"),
)
_LEGACY_TORCH: Final = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"
#: what the argument of GLOBAL looks like in `pickletools`
_GLOBAL: Final = re.compile(r"[\w.]+ [\w.]+")
#: zlib's first byte for its usual window, and its second by level
_ZLIB: Final = (b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda")
COMPRESSED: Final = frozenset({"gzip", "zlib", "bz2", "xz", "lzma", "lz4", "zstd"})
#: how a name ends, for text that no content gives away
_TEXTS: Final = {
    ".py": "python", ".pyi": "python", ".ipynb": "notebook", ".json": "json", ".yaml": "yaml",
    ".yml": "yaml", ".toml": "toml", ".md": "text", ".txt": "text", ".sh": "script",
    ".jinja": "jinja", ".j2": "jinja",
}  # fmt: skip


def format_of(data: Data, name: str = "") -> str:
    """What `data` is: ``pickle``, ``torch``, ``gzip+joblib`` …, ``binary`` where nothing is known.

    Args:
        data: the file.
        name: what it is called, for telling texts apart.
    """
    head = data.read(0, HEAD)
    if not head:
        return "empty"
    kind = _by_magic(data, head) or _text(head, name) or "binary"
    if kind in COMPRESSED and (inner := expand(kind, head, HEAD)):
        within = _pickled(inner) or ("tar" if _is_tar(inner) else "")
        return f"{kind}+{within}" if within else kind
    return kind


def _by_magic(data: Data, head: bytes) -> str:
    if head.startswith((zips.LOCAL, b"PK\x05\x06")):
        return _zip(data)
    for magic, kind in _MAGIC:
        if head.startswith(magic):
            return kind
    if head.startswith(_ZLIB) and expand("zlib", head, 64):
        return "zlib"
    if head.startswith(b"]\0\0") and expand("lzma", head, 64):
        return "lzma"
    if _is_tar(head):
        return "tar"
    if head[4:8] in (b"TFL3",):
        return "tflite"
    if head[2:4] == b"\r\n" and head[1:2] in (b"\r", b"\x0d", b"\x0c", b"\x0e"):
        return "python-bytecode"
    if _is_safetensors(data, head):
        return "safetensors"
    if pickled := _pickled(head):
        return pickled
    if protobuf := _protobuf(data):
        return protobuf
    with contextlib.suppress(OSError, struct.error):
        # Readers of zip look for its end first: something else may stand in front.
        if zips.read(data) is not None:
            return _zip(data)
    return ""


def _zip(data: Data) -> str:
    directory = zips.read(data)
    return kind_of_zip(directory.names) if directory else "zip"


def kind_of_zip(names: Sequence[str]) -> str:
    """What an archive with these members is."""
    ends = {name.rpartition("/")[2] for name in names}
    if "config.json" in names and "metadata.json" in names:
        return "keras"
    if "schema.json" in names:
        return "skops"
    if "archive_format" in ends and any("/models/" in f"/{name}" for name in names):
        return "pt2"
    if "serialized_exported_program.json" in ends:
        return "pt2"
    if "data.pkl" in ends:
        return "torchscript" if "constants.pkl" in ends else "torch"
    if names and all(name.endswith(".npy") for name in names):
        return "npz"
    return "zip"


def _pickled(head: bytes) -> str:
    """``pickle`` and its relatives; the look decides for certain."""
    if head[:1] == b"\x80" and len(head) > 1 and head[1] <= 5:
        if _LEGACY_TORCH in head[:16]:
            return "torch-legacy"
        return "joblib" if b"joblib.numpy_pickle" in head or b"joblib\n" in head else "pickle"
    if _is_old_pickle(head[:4096]):
        return "joblib" if b"joblib" in head else "pickle"
    return ""


def _is_old_pickle(head: bytes) -> bool:
    """Protocols 0 and 1 have no first bytes of their own: whether these read as opcodes."""
    seen = 0
    imports = False
    try:
        for opcode, argument, position in pickletools.genops(head):
            seen += 1
            if opcode.name in ("GLOBAL", "INST"):
                if not _GLOBAL.fullmatch(str(argument)):
                    return imports
                imports = True
            elif opcode.name == "STOP":
                return imports or (seen > 2 and position is not None and position + 1 == len(head))
    except (ValueError, IndexError, OverflowError, MemoryError):
        return imports and seen > 3
    return seen > 8


def _is_tar(head: bytes) -> bool:
    return head[257:262] == b"ustar"


def _is_safetensors(data: Data, head: bytes) -> bool:
    if len(head) < 10 or head[8:9] != b"{":
        return False
    length: int = struct.unpack("<Q", head[:8])[0]
    return 2 <= length <= data.size - 8


def _protobuf(data: Data) -> str:
    """``onnx`` or ``saved-model`` by the fields at the top of the message."""
    numbers: dict[int, int] = {}
    at = 0
    for _ in range(64):
        if at >= data.size:
            break
        key, at = varint(data.read(at, 10), at)
        if at < 0:
            return ""
        number, wire = key >> 3, key & 7
        numbers[number] = wire
        if wire == 0:
            _, at = varint(data.read(at, 10), at)
        elif wire == 2:
            length, at = varint(data.read(at, 10), at)
            at += length
        else:
            return ""
        if at < 0 or at > data.size or not 1 <= number <= 25:
            return ""
    if (numbers.get(1), numbers.get(7), numbers.get(8)) == (0, 2, 2):
        return "onnx"
    if numbers == {1: 0, 2: 2}:
        return "saved-model"
    return ""


def varint(window: bytes, at: int) -> tuple[int, int]:
    """The number at the start of `window`, and `at` moved behind it; -1 where there is none."""
    value = 0
    for i, byte in enumerate(window):
        value |= (byte & 0x7F) << (7 * i)
        if byte < 0x80:
            return value, at + i + 1
    return 0, -1


def _text(head: bytes, name: str) -> str:
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 4:
            return ""
        text = head[: error.start].decode("utf-8")
    if re.search(r"[\0-\x08\x0e-\x1a\x1c-\x1f]", text):
        return ""
    suffix = re.search(r"\.[a-z0-9]+$", name.lower())
    kind = _TEXTS.get(suffix[0], "") if suffix else ""
    if text.lstrip("\ufeff \t\r\n").startswith("{"):
        if '"learner"' in text and '"gradient_booster"' in text:
            return "xgboost-json"
        return kind if kind in ("json", "notebook", "jinja", "python") else "json"
    return kind or "text"


def expand(kind: str, content: bytes, limit: int) -> bytes:
    """The first `limit` bytes that compressed `content` holds; empty where it holds none."""
    try:
        return _EXPANDERS[kind](content, limit) if kind in _EXPANDERS else b""
    except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError):
        return b""


_EXPANDERS: Final[dict[str, Callable[[bytes, int], bytes]]] = {
    "gzip": lambda content, limit: zlib.decompressobj(31).decompress(content, limit),
    "zlib": lambda content, limit: zlib.decompressobj(15).decompress(content, limit),
    "bz2": lambda content, limit: bz2.BZ2Decompressor().decompress(content, limit),
    "xz": lambda content, limit: lzma.LZMADecompressor(memlimit=1 << 28).decompress(content, limit),
    "lzma": lambda content, limit: lzma.LZMADecompressor(
        lzma.FORMAT_ALONE, memlimit=1 << 28
    ).decompress(content, limit),
}

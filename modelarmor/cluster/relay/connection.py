"""Where KubeArmor's relay is, how it is reached, and what it means when it is not."""

from __future__ import annotations

import os
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio

from modelarmor.cluster.relay import wire

#: the relay's Service in KubeArmor's own installation
TARGET: Final = "kubearmor.kubearmor.svc:32767"

_TARGET = re.compile(r"[A-Za-z0-9.\-]{1,253}:[0-9]{1,5}|\[[0-9A-Fa-f:.]{2,45}\]:[0-9]{1,5}")
_MAX_PEM = 1 << 20
_FINAL: Final = {
    grpc.StatusCode.UNAUTHENTICATED: "it does not know this server",
    grpc.StatusCode.PERMISSION_DENIED: "this server has no right to read it",
    grpc.StatusCode.UNIMPLEMENTED: "what answers there is no KubeArmor relay",
}
# The relay sets no minimum of its own, so gRPC for Go ends a connection on which pings come more
# often than each five minutes. In between `Connection.alive` asks.
_PING = 330_000


class RelayError(ValueError):
    """The relay cannot be reached, or broke off; says why."""


class RelayRefused(RelayError):
    """The relay, or something before it, says that this server may not read alerts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Relay:
    """Where the relay is and what proves who is who.

    Attributes:
        target: ``host:port``.
        ca: certificates that vouch for the relay; without it the connection is not encrypted, and
            whoever is in between reads and forges alerts.
        certificate, key: of this server, where the relay asks for them (mutual TLS).
        name: in the relay's certificate, if it is not the host's; KubeArmor's own certificates are
            for ``localhost``.
    """

    target: str = TARGET
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    name: str = ""

    def __post_init__(self) -> None:
        if not _TARGET.fullmatch(self.target) or int(self.target.rpartition(":")[2]) > 65535:
            raise ValueError(f"relay {self.target!r:.300}: should be host:port")
        if (self.certificate is None) != (self.key is None):
            raise ValueError("relay: a client's certificate and its key go together")
        if self.certificate is not None and self.ca is None:
            raise ValueError("relay: a client's certificate without a ca would not be used")

    @classmethod
    def from_environment(cls, variables: Mapping[str, str] = os.environ) -> Relay:
        """As ``MODELARMOR_RELAY`` (``host:port``), ``MODELARMOR_RELAY_TLS`` and
        ``MODELARMOR_RELAY_NAME`` say.

        ``MODELARMOR_RELAY_TLS`` is a directory with ``ca.crt``, and ``client.crt`` with
        ``client.key`` for mutual TLS: KubeArmor's Secret ``kubearmor-client-certs``, mounted.

        Raises:
            ValueError: the directory has no ``ca.crt``, or half of a client's certificate.
        """
        target = variables.get("MODELARMOR_RELAY", TARGET)
        name = variables.get("MODELARMOR_RELAY_NAME", "")
        if not (directory := variables.get("MODELARMOR_RELAY_TLS", "")):
            return cls(target=target, name=name)
        files = {part: Path(directory) / part for part in ("ca.crt", "client.crt", "client.key")}
        if not files["ca.crt"].is_file():  # going on without would be going on in the clear
            raise ValueError(f"$MODELARMOR_RELAY_TLS: {directory} has no ca.crt")
        certificate, key = (
            files[part] if files[part].is_file() else None for part in ("client.crt", "client.key")
        )
        return cls(target=target, ca=files["ca.crt"], certificate=certificate, key=key, name=name)

    def open(self) -> Connection:
        """A connection, which is made when it is first used. Certificates are read now, so that
        those that were renewed are seen by the next.

        Raises:
            RelayError: a file of certificates cannot be read.
        """
        options: list[tuple[str, Any]] = [
            ("grpc.max_receive_message_length", wire.MAX_MESSAGE),
            ("grpc.max_send_message_length", 1024),
            ("grpc.max_metadata_size", 16384),
            ("grpc.keepalive_time_ms", _PING),
            ("grpc.keepalive_timeout_ms", 20_000),
            ("grpc.enable_retries", 0),
            ("grpc.enable_http_proxy", 0),  # alerts are read from the relay and nobody else
            ("grpc.use_local_subchannel_pool", 1),  # a new connection is a new one
        ]
        if self.name:
            options.append(("grpc.ssl_target_name_override", self.name))
        if self.ca is None:
            return Connection(grpc.aio.insecure_channel(self.target, options=options), self)
        credentials = grpc.ssl_channel_credentials(
            root_certificates=_pem(self.ca),
            private_key=None if self.key is None else _pem(self.key),
            certificate_chain=None if self.certificate is None else _pem(self.certificate),
        )
        return Connection(grpc.aio.secure_channel(self.target, credentials, options=options), self)


class Connection:
    """One connection with the relay."""

    def __init__(self, channel: grpc.aio.Channel, relay: Relay) -> None:
        self._channel = channel
        self._relay = relay
        self._answered = False
        # messages stay bytes here: one that cannot be read must not end the stream unsaid
        self._health = channel.unary_unary(f"/{wire.SERVICE}/HealthCheck")
        self._watch = channel.unary_stream(f"/{wire.SERVICE}/WatchAlerts")

    async def alive(self, seconds: float) -> None:
        """Have the relay answer.

        Raises:
            RelayRefused: it refuses this server.
            RelayError: it does not answer within so many seconds, or something else does.
        """
        number = random.randrange(1, 1 << 31)
        try:
            reply = await self._health(wire.nonce(number), timeout=seconds)
            answered = wire.nonce_of(reply)
        except grpc.aio.AioRpcError as error:
            raise self.explained(error) from None
        except wire.MalformedError as error:
            raise RelayError(f"the relay {self._relay.target} answered {error}") from None
        if answered != number:
            raise RelayError(f"the relay {self._relay.target} answered something else than asked")
        self._answered = True

    def alerts(self) -> Any:
        """The call whose messages are alerts, of policies alone; it ends when it is cancelled."""
        return self._watch(wire.watch("policy"))

    def explained(self, error: grpc.aio.AioRpcError) -> RelayError:
        """What a failed call means."""
        details = (error.details() or error.code().name)[:500]
        where = f"the relay {self._relay.target}"
        if (why := _FINAL.get(error.code())) is not None:
            return RelayRefused(
                f"{where} refuses its alerts: {why} ({details}). Give this server a client"
                " certificate that the relay accepts ($MODELARMOR_RELAY_TLS), and its namespace"
                " a NetworkPolicy that lets it there"
            )
        return RelayError(f"{where}: {details}{self._hint(details)}")

    def _hint(self, details: str) -> str:
        told = details.lower()
        if any(word in told for word in ("certificate", "ssl", "handshake", "verification")):
            return (
                " (its certificate is not vouched for by the ca, or is for another name:"
                " $MODELARMOR_RELAY_NAME)"
            )
        plain = self._relay.ca is None and not self._answered
        if plain and ("reset" in told or "socket closed" in told):
            return " (perhaps it wants TLS: $MODELARMOR_RELAY_TLS)"
        return ""

    async def close(self) -> None:
        """End it."""
        await self._channel.close()


def _pem(file: Path) -> bytes:
    try:
        with file.open("rb") as stream:
            data = stream.read(_MAX_PEM + 1)
    except OSError as error:
        raise RelayError(f"relay: {file}: {error.strerror}") from None
    if len(data) > _MAX_PEM or b"-----BEGIN " not in data:
        raise RelayError(f"relay: {file} is no file of certificates or keys (PEM)")
    return data

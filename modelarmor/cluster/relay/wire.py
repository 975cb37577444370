"""The messages of KubeArmor's ``feeder.LogService`` that are needed here, and how one is read.

Fields and their numbers are those of ``protobuf/kubearmor.proto`` of KubeArmor 1.7. They are given
to protobuf as a table instead of as generated code, which would bind one version of its runtime;
and `modelarmor.alerts.Alert` has them in the order of their numbers already.

Texts are declared as bytes, which is the same on the wire: a text of a hostile process need not be
UTF-8, and an alert must not vanish because of a file's name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from modelarmor.alerts import Alert

SERVICE: Final = "feeder.LogService"

#: the largest message that is accepted, in bytes; KubeArmor's own are of a few kilobytes
MAX_MESSAGE: Final = 1 << 20
#: what is kept of one text, in characters, and of one list, in entries
MAX_TEXT, MAX_ENTRIES = 4096, 64

_Field = descriptor_pb2.FieldDescriptorProto
_NESTED: Final = {
    "Owner": ("Ref", "Name", "Namespace"),
    "ExecEvent": ("ExecID", "ExecutableName"),
    "EventData": ("key", "value"),  # a map, which on the wire is a list of pairs
}
_WIDE: Final = frozenset({"Timestamp"})


class MalformedError(ValueError):
    """Bytes that are no message of the service."""


def nonce(number: int) -> bytes:
    """The request of ``HealthCheck``."""
    return bytes(_NONCE(nonce=number).SerializeToString())


def nonce_of(reply: bytes) -> int:
    """What ``HealthCheck`` answered.

    Raises:
        MalformedError: it is no such answer.
    """
    return int(_parsed(_REPLY, reply).Retval)


def watch(what: str) -> bytes:
    """The request of ``WatchAlerts``: ``policy`` or ``all``."""
    return bytes(_REQUEST(Filter=what.encode()).SerializeToString())


class Received:
    """One alert as it arrived; most are for nobody here, so it is read no further than asked.

    Raises:
        MalformedError: the bytes are no alert.
    """

    __slots__ = ("_message",)

    def __init__(self, data: bytes) -> None:
        self._message = _parsed(_ALERT, data)

    @property
    def pod(self) -> tuple[str, str]:
        """Namespace and name; both empty where it is about a host."""
        return _text(self._message.NamespaceName), _text(self._message.PodName)

    def alert(self) -> Alert:
        """The whole of it, every field bounded; what is not UTF-8 has replacement characters."""
        values: dict[str, Any] = {"Type": "", "Enforcer": ""}
        for field, value in self._message.ListFields():
            values[field.name] = _plain(field.name, value)
        return Alert(**values)


def _parsed(kind: Any, data: bytes) -> Any:
    try:
        return kind.FromString(data)
    except DecodeError as error:
        raise MalformedError(f"{len(data)} bytes that are no {kind.DESCRIPTOR.name}") from error


def _plain(name: str, value: Any) -> Any:
    if isinstance(value, bytes):
        return _text(value)
    if isinstance(value, int):
        return value
    if name == "ATags":
        return tuple(_text(item) for item in value[:MAX_ENTRIES])
    if name == "EventData":
        return {_text(pair.key): _text(pair.value) for pair in value[:MAX_ENTRIES]}
    return {item.name: _text(text) for item, text in value.ListFields()}


def _text(data: bytes) -> str:
    # four bytes are the most that UTF-8 needs for a character
    text = data[: MAX_TEXT * 4].decode("utf-8", "replace")
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…"


def _messages() -> Mapping[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(
        name="modelarmor/feeder.proto", package="feeder", syntax="proto3"
    )
    _add(file, "NonceMessage", [("nonce", _Field.TYPE_INT32, False)])
    _add(file, "ReplyMessage", [("Retval", _Field.TYPE_INT32, False)])
    _add(file, "RequestMessage", [("Filter", _Field.TYPE_BYTES, False)])
    for name, parts in _NESTED.items():
        _add(file, name, [(part, _Field.TYPE_BYTES, False) for part in parts])
    _add(file, "Alert", [_alert_field(item.name, str(item.type)) for item in fields(Alert)])
    pool = descriptor_pool.DescriptorPool()  # its own: KubeArmor's generated code may be loaded too
    pool.Add(file)
    return {
        message.name: message_factory.GetMessageClass(
            pool.FindMessageTypeByName(f"feeder.{message.name}")
        )
        for message in file.message_type
    }


def _alert_field(name: str, kind: str) -> tuple[str, int | str, bool]:
    if name in _NESTED:
        return name, f".feeder.{name}", name == "EventData"
    if kind == "int":
        return name, _Field.TYPE_INT64 if name in _WIDE else _Field.TYPE_INT32, False
    return name, _Field.TYPE_BYTES, kind != "str"


def _add(file: Any, name: str, members: Iterable[tuple[str, int | str, bool]]) -> None:
    message = file.message_type.add(name=name)
    for number, (member, kind, repeated) in enumerate(members, 1):
        message.field.add(
            name=member,
            number=number,
            type=_Field.TYPE_MESSAGE if isinstance(kind, str) else kind,
            type_name=kind if isinstance(kind, str) else None,
            label=_Field.LABEL_REPEATED if repeated else _Field.LABEL_OPTIONAL,
        )


_KINDS: Final = _messages()
_NONCE, _REPLY, _REQUEST, _ALERT = (
    _KINDS[name] for name in ("NonceMessage", "ReplyMessage", "RequestMessage", "Alert")
)

"""What a kernel sends to the browser in strict mode: everything but scripts to be executed.

A display may hold ``application/javascript``, which a front end executes by ``eval``, and that the
Content-Security-Policy has to allow. JupyterLab can be told to leave it, Notebook 7 cannot (its
built-in renderers are not asked about ``disabledExtensions``), so the server takes it out of each
message, wherever it stands: displays travel inside of widgets' state too.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

from jupyter_server.services.kernels.connection.channels import ZMQChannelsWebsocketConnection

_SCRIPT: Final = re.compile(
    r"\s*(application|text)/([\w.+-]*)(java|ecma|live|j)script", re.IGNORECASE
)
# Whether it is worth to look: in JSON any character may be written as an escape.
_SUSPECT: Final = re.compile(rb"script|\\u", re.IGNORECASE)
_INSTEAD: Final = "A script, which strict mode does not show."
_CONTENT: Final = 3  # header, parent header, metadata, content, buffers


class StrictConnection(ZMQChannelsWebsocketConnection):
    """The connection of a browser to a kernel, through which no script comes."""

    def _on_zmq_reply(self, stream: Any, msg_list: Any) -> None:
        try:
            if isinstance(msg_list, dict):
                message: Any = {**msg_list, "content": without_scripts(msg_list["content"])}
            else:
                message = list(msg_list)
                message[_CONTENT] = _filtered(bytes(message[_CONTENT]))
        except (ValueError, RecursionError) as error:
            self.log.warning("strict mode: a message of kernel %s: %s", self.kernel_id, error)
            return
        super()._on_zmq_reply(stream, message)  # type: ignore[no-untyped-call]


def without_scripts(value: Any) -> Any:
    """`value`, which came from JSON, without entries whose key is the MIME type of a script."""
    if isinstance(value, list):
        return [without_scripts(item) for item in value]
    if not isinstance(value, dict):
        return value
    kept = {key: without_scripts(item) for key, item in value.items() if not _SCRIPT.match(key)}
    if len(kept) < len(value):
        kept.setdefault("text/plain", _INSTEAD)
    return kept


def _filtered(content: bytes) -> bytes:
    if not _SUSPECT.search(content):
        return content
    return json.dumps(without_scripts(json.loads(content)), ensure_ascii=False).encode()

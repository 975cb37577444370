"""The server extension: it watches confined kernels and serves their record."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

from jupyter_events import EventLogger
from jupyter_server.extension.application import ExtensionApp
from tornado import web
from traitlets import default

from modelarmor.scratch import sweep
from modelarmor_jupyter import starting
from modelarmor_jupyter.config import ModelArmor
from modelarmor_jupyter.confined import Confined
from modelarmor_jupyter.handlers import (
    AlertsHandler,
    ExplanationHandler,
    KernelHandler,
    KernelsHandler,
    RestartHandler,
)
from modelarmor_jupyter.profile_handlers import PreviewHandler, ProfileHandler, ProfilesHandler
from modelarmor_jupyter.watch import KernelWatch

VIOLATION_SCHEMA: Final = "https://schema.modelarmor.dev/jupyter/violation/v1"
LAUNCH_SCHEMA: Final = "https://schema.modelarmor.dev/jupyter/launch/v1"
_SCHEMAS: Final = Path(__file__).parent / "events"
# https://jupyter-server.readthedocs.io/en/latest/developers/contents.html: emitted by each
# kernel manager for start, restart (also by itself, after a crash) and shutdown
_KERNEL_ACTIONS: Final = "https://events.jupyter.org/jupyter_server/kernel_actions/v1"


class ModelArmorExtension(ExtensionApp):
    """Serves ``modelarmor/api`` and rings when a confined kernel is refused something."""

    name = "modelarmor_jupyter"
    extension_url = "/modelarmor"
    load_other_extensions = True

    @default("classes")
    def _default_classes(self) -> list[type]:
        return [ModelArmor]

    def initialize_settings(self) -> None:
        """Set up what outlives a request."""
        self._watches: dict[str, KernelWatch] = {}
        self._restarting: set[str] = set()
        events: EventLogger = self._server.event_logger
        for schema in ("violation.v1.yaml", "launch.v1.yaml"):
            events.register_event_schema(_SCHEMAS / schema)
        starting.listeners.append(self._on_start)
        events.add_listener(schema_id=_KERNEL_ACTIONS, listener=self._on_kernel_action)
        #: what the administrator decides
        self.armor = ModelArmor(parent=self)
        base = self.armor.scratch_directory
        removed = sweep(Path(base).expanduser() if base else None)
        if removed:
            self.log.info("removed %d directories of kernels whose server was killed", removed)

    def initialize_handlers(self) -> None:
        """Add the routes."""
        api, extension = r"/modelarmor/api", {"extension": self}
        kernel = rf"{api}/kernels/([^/]+)"
        self.handlers.extend(
            [
                (rf"{api}/kernels", KernelsHandler, extension),
                (kernel, KernelHandler, extension),
                (rf"{kernel}/alerts", AlertsHandler, extension),
                (rf"{kernel}/alerts/([^/]+)/explanation", ExplanationHandler, extension),
                (rf"{kernel}/restart", RestartHandler, extension),
                (rf"{api}/profiles", ProfilesHandler, extension),
                (rf"{api}/profiles/preview", PreviewHandler, extension),
                (rf"{api}/profiles/([^/]+)", ProfileHandler, extension),
            ]
        )

    async def stop_extension(self) -> None:
        """Stop watching; the server is about to end."""
        starting.listeners.remove(self._on_start)
        for kernel_id in list(self._watches):
            self._watches.pop(kernel_id).close()

    def provisioner(self, kernel_id: str) -> Confined | None:
        """The provisioner of a kernel of this server; None where it is not confined."""
        provisioner = getattr(self._manager(kernel_id), "provisioner", None)
        return provisioner if isinstance(provisioner, Confined) else None

    def watch(self, kernel_id: str) -> KernelWatch:
        """The watch over a confined kernel of this server, begun if it is not on yet."""
        watch = self._watches.get(kernel_id)
        if watch is None or watch.provisioner is not self.provisioner(kernel_id):
            self._forget_ended()
            watch = KernelWatch(kernel_id, self._manager(kernel_id), self._emit)
            self._watches[kernel_id] = watch
        return watch

    @contextlib.asynccontextmanager
    async def restarting(self, kernel_id: str) -> AsyncIterator[None]:
        """Hold off other requests to restart the kernel.

        Raises
        ------
        tornado.web.HTTPError
            409 when one is under way.
        """
        if kernel_id in self._restarting:
            raise web.HTTPError(409, "the kernel is being restarted already")
        self._restarting.add(kernel_id)
        try:
            yield
        finally:
            self._restarting.discard(kernel_id)

    @property
    def _server(self) -> Any:
        # typed as optional upstream; None only before the extension is linked to its server
        return self.serverapp

    def _manager(self, kernel_id: str) -> Any:
        return self._server.kernel_manager.get_kernel(kernel_id)

    def _forget_ended(self) -> None:
        manager = self._server.kernel_manager
        for kernel_id in list(self._watches):
            if kernel_id not in manager or self.provisioner(kernel_id) is None:
                self._watches.pop(kernel_id).close()

    def _emit(self, data: dict[str, Any]) -> None:
        self._server.event_logger.emit(schema_id=VIOLATION_SCHEMA, data=data)

    def _on_start(self, kernel_id: str) -> None:
        self._server.event_logger.emit(schema_id=LAUNCH_SCHEMA, data={"kernel_id": kernel_id})

    async def _on_kernel_action(
        self, logger: EventLogger, schema_id: str, data: dict[str, Any]
    ) -> None:
        # A client may forge this event: what it says is only a reason to look.
        kernel_id = data.get("kernel_id", "")
        if kernel_id not in self._server.kernel_manager:
            self._forget_ended()
        elif self.provisioner(kernel_id) is not None:
            known = kernel_id in self._watches
            watch = self.watch(kernel_id)
            if known and data.get("action") == "restart":
                watch.connect()

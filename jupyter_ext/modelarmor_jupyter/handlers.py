"""The record over REST: which kernels are confined, how, and what they were refused."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final

from jupyter_server.auth.decorator import authorized
from jupyter_server.base.handlers import APIHandler
from jupyter_server.extension.handler import ExtensionHandlerMixin
from tornado import web

from modelarmor_jupyter.provisioner import ModelArmorProvisioner

if TYPE_CHECKING:
    from modelarmor_jupyter.app import ModelArmorExtension

#: the resource that an authorizer is asked about; every verb here is ``read``
AUTH_RESOURCE: Final = "modelarmor"

DEFAULT_LIMIT: Final = 500
MAX_LIMIT: Final = 1_000

# as jupyter_server's own kernel routes
_KERNEL_ID = re.compile(r"\w{1,64}(-\w{1,64}){4}", re.ASCII)
_NUMBER = re.compile(r"[0-9]{1,15}", re.ASCII)


class _Handler(ExtensionHandlerMixin, APIHandler):
    auth_resource = AUTH_RESOURCE
    extension: ModelArmorExtension

    def initialize(self, name: str, extension: ModelArmorExtension) -> None:
        super().initialize(name)
        self.extension = extension

    def provisioner(self, kernel_id: str) -> ModelArmorProvisioner | None:
        """The provisioner of a kernel; None where the kernel is not confined.

        Raises
        ------
        tornado.web.HTTPError
            400 when that is no kernel's id, 404 when there is no such kernel.
        """
        if _KERNEL_ID.fullmatch(kernel_id) is None:
            raise web.HTTPError(400, "that is not the id of a kernel")
        if kernel_id not in self.kernel_manager:
            raise web.HTTPError(404, "there is no such kernel, or it has ended")
        return self.extension.provisioner(kernel_id)

    def number(self, name: str, default: int, lowest: int, highest: int) -> int:
        """A whole number from the query.

        Raises
        ------
        tornado.web.HTTPError
            400 when it is none, or out of range.
        """
        text = self.get_query_argument(name, str(default))
        if _NUMBER.fullmatch(text) is None or not lowest <= int(text) <= highest:
            raise web.HTTPError(400, f"{name} is a whole number from {lowest} to {highest}")
        return int(text)

    def answer(self, body: Any) -> None:
        """End the request with `body` as JSON."""
        self.set_header("Cache-Control", "no-store")
        self.finish(json.dumps(body))


class KernelsHandler(_Handler):
    """``GET modelarmor/api/kernels``: every kernel of this server."""

    @web.authenticated
    @authorized
    def get(self) -> None:
        """Answer with the state of each kernel, without its plan."""
        self.answer(
            [
                state(kernel_id, self.extension.provisioner(kernel_id))
                for kernel_id in self.kernel_manager.list_kernel_ids()
            ]
        )


class KernelHandler(_Handler):
    """``GET modelarmor/api/kernels/{id}``: how one kernel is confined."""

    @web.authenticated
    @authorized
    def get(self, kernel_id: str) -> None:
        """Answer with the state of the kernel and its plan: each rule, how it is enforced."""
        provisioner = self.provisioner(kernel_id)
        body = state(kernel_id, provisioner)
        if provisioner is not None:
            body["plan"] = provisioner.plan.to_json() if provisioner.plan else None
        self.answer(body)


class AlertsHandler(_Handler):
    """``GET modelarmor/api/kernels/{id}/alerts?after=SEQ&limit=N``: what it was refused."""

    @web.authenticated
    @authorized
    def get(self, kernel_id: str) -> None:
        """Answer with the alerts after number ``after``, each with the cell it fell into."""
        after = self.number("after", 0, 0, 10**15 - 1)
        limit = self.number("limit", DEFAULT_LIMIT, 1, MAX_LIMIT)
        if self.provisioner(kernel_id) is None:
            self.answer({**state(kernel_id, None), "last": 0, "missed": 0, "alerts": []})
            return
        watch = self.extension.watch(kernel_id)
        self.answer({**watch.alerts(after, limit), "confined": True})


def state(kernel_id: str, provisioner: ModelArmorProvisioner | None) -> dict[str, Any]:
    """A kernel's state as JSON; `provisioner` is None for a kernel that is not confined."""
    if provisioner is None:
        return {"kernel_id": kernel_id, "confined": False}
    profile = provisioner.loaded_profile
    recorder = provisioner.recorder
    return {
        "kernel_id": kernel_id,
        "confined": provisioner.plan is not None,
        "profile": None
        if profile is None
        else {
            "name": profile.name,
            "title": profile.title,
            "description": profile.description,
            "display_name": profile.display_name,
        },
        "last": recorder.last,
        "counts": recorder.counts.to_json(),
    }

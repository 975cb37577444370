"""Kernels over REST: which are confined, how, what they were refused; and their restart."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from jupyter_core.utils import ensure_async
from jupyter_server.auth.decorator import authorized
from jupyter_server.base.handlers import APIHandler
from jupyter_server.extension.handler import ExtensionHandlerMixin
from tornado import web

from modelarmor.policy.document import PolicyError
from modelarmor.profiles import ProfileError
from modelarmor.sandbox import CannotConfine
from modelarmor_jupyter import starting
from modelarmor_jupyter.config import RefusedRequest
from modelarmor_jupyter.confined import Confined
from modelarmor_jupyter.own_profiles import NameTaken
from modelarmor_jupyter.proposals import NothingToAdd, NotRecorded, explain
from modelarmor_jupyter.state import kernel_state, no_alerts

if TYPE_CHECKING:
    from modelarmor_jupyter.app import ModelArmorExtension

#: the resource that an authorizer is asked about: ``read`` for GET, ``write`` for the others
AUTH_RESOURCE: Final = "modelarmor"

DEFAULT_LIMIT: Final = 500
MAX_LIMIT: Final = 1_000
#: the largest body of a request, in bytes: a thousand numbers and a name
MAX_BODY: Final = 64 << 10

_POLL_SECONDS: Final = 0.05

# as jupyter_server's own kernel routes
_KERNEL_ID = re.compile(r"\w{1,64}(-\w{1,64}){4}", re.ASCII)
_NUMBER = re.compile(r"[0-9]{1,15}", re.ASCII)


@contextlib.contextmanager
def refusals() -> Iterator[None]:
    """Answer with the status that fits what our own code refuses, and with its message."""
    try:
        yield
    except RefusedRequest as error:
        raise web.HTTPError(403, str(error)) from error
    except NotRecorded as error:
        raise web.HTTPError(404, str(error)) from error
    except NameTaken as error:
        raise web.HTTPError(409, str(error)) from error
    except (ProfileError, PolicyError, CannotConfine, NothingToAdd) as error:
        raise web.HTTPError(400, str(error)) from error


class Handler(ExtensionHandlerMixin, APIHandler):
    """What the routes have in common: kernels by id, checked input, JSON out."""

    auth_resource = AUTH_RESOURCE
    extension: ModelArmorExtension

    def initialize(self, name: str, extension: ModelArmorExtension) -> None:
        super().initialize(name)
        self.extension = extension

    def manager(self, kernel_id: object) -> Any:
        """The kernel manager of a kernel of this server.

        Raises
        ------
        tornado.web.HTTPError
            400 when that is no kernel's id, 404 when there is no such kernel.
        """
        if not isinstance(kernel_id, str) or _KERNEL_ID.fullmatch(kernel_id) is None:
            raise web.HTTPError(400, "that is not the id of a kernel")
        if kernel_id not in self.kernel_manager:
            raise web.HTTPError(404, "there is no such kernel, or it has ended")
        return self.kernel_manager.get_kernel(kernel_id)

    def provisioner(self, kernel_id: object) -> Confined | None:
        """The provisioner of a kernel; None where the kernel is not confined.

        Raises
        ------
        tornado.web.HTTPError
            see `manager`.
        """
        provisioner = self.manager(kernel_id).provisioner
        if isinstance(provisioner, Confined) and provisioner.plan is not None:
            return provisioner
        return None

    def confined(self, kernel_id: object) -> Confined:
        """The provisioner of a kernel that is confined.

        Raises
        ------
        tornado.web.HTTPError
            see `manager`; and 409 when the kernel is not confined.
        """
        provisioner = self.provisioner(kernel_id)
        if provisioner is None:
            raise web.HTTPError(409, "that kernel is not confined")
        return provisioner

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

    def body(self, *fields: str) -> dict[str, Any]:
        """The request's JSON object, which may have these fields; its values are not checked.

        Raises
        ------
        tornado.web.HTTPError
            400 when it is too large, no JSON object, or has another field.
        """
        if len(self.request.body) > MAX_BODY:
            raise web.HTTPError(400, f"the body of a request has at most {MAX_BODY} bytes")
        try:
            body = json.loads(self.request.body)
        except (ValueError, RecursionError) as error:
            raise web.HTTPError(400, "the body should be a JSON object") from error
        if not isinstance(body, dict):
            raise web.HTTPError(400, "the body should be a JSON object")
        if unknown := sorted(body.keys() - set(fields)):
            known = ", ".join(fields)
            raise web.HTTPError(400, f"{unknown[0]!r:.80} is no field here; known are {known}")
        return body

    def answer(self, body: Any, status: int = 200) -> None:
        """End the request with `body` as JSON."""
        self.set_status(status)
        self.set_header("Cache-Control", "no-store")
        self.finish(json.dumps(body))


class KernelsHandler(Handler):
    """``GET modelarmor/api/kernels``: every kernel of this server."""

    @web.authenticated
    @authorized
    def get(self) -> None:
        """Answer with the state of each kernel, without its plan."""
        server = self.kernel_manager
        listed = {item: server.get_kernel(item) for item in server.list_kernel_ids()}
        managers = {**starting.managers(server), **listed}
        self.answer([kernel_state(item, manager) for item, manager in managers.items()])


class KernelHandler(Handler):
    """``GET modelarmor/api/kernels/{id}``: how one kernel is confined."""

    @web.authenticated
    @authorized
    def get(self, kernel_id: str) -> None:
        """Answer with the state of the kernel and its plan: each rule, how it is enforced."""
        body = kernel_state(kernel_id, self.manager(kernel_id))
        provisioner = self.provisioner(kernel_id)
        plan = provisioner.plan if provisioner is not None else None
        self.answer({**body, "plan": plan.to_json() if plan is not None else None})


class AlertsHandler(Handler):
    """``GET modelarmor/api/kernels/{id}/alerts?after=SEQ&limit=N``: what it was refused."""

    @web.authenticated
    @authorized
    async def get(self, kernel_id: str) -> None:
        """Answer with the alerts after number ``after``, each with the cell it fell into."""
        after = self.number("after", 0, 0, 10**15 - 1)
        limit = self.number("limit", DEFAULT_LIMIT, 1, MAX_LIMIT)
        if self.provisioner(kernel_id) is None:
            state = kernel_state(kernel_id, self.manager(kernel_id))
            self.answer({**state, **no_alerts()})
            return
        watch = self.extension.watch(kernel_id)
        self.answer({**await watch.alerts(after, limit), "confined": True})


async def _up(answered: Any, provisioner: Confined) -> None:
    """Wait until the kernel has answered.

    Raises
    ------
    RuntimeError, TimeoutError
        when it ends before, or does not answer.
    """
    while not answered.done():
        await asyncio.wait([asyncio.ensure_future(answered)], timeout=_POLL_SECONDS)
        said = await provisioner.ended_early()
        if said is not None and not answered.done():
            answered.cancel()
            raise RuntimeError(f"it ended under this profile, and goes back to the former. {said}")
    answered.result()


class ExplanationHandler(Handler):
    """``GET modelarmor/api/kernels/{id}/alerts/{seq}/explanation``: why, and what would help."""

    @web.authenticated
    @authorized
    async def get(self, kernel_id: str, seq: str) -> None:
        """Answer with what decided, and the smallest change that would permit it."""
        provisioner = self.confined(kernel_id)
        if _NUMBER.fullmatch(seq) is None:
            raise web.HTTPError(400, "the number of an alert is a whole number")
        with refusals():
            self.answer(await asyncio.to_thread(explain, provisioner, int(seq)))


class RestartHandler(Handler):
    """``POST modelarmor/api/kernels/{id}/restart``: the same kernel under another profile."""

    @web.authenticated
    @authorized
    async def post(self, kernel_id: str) -> None:
        """Restart under a profile (null: the one that it has), recording or not."""
        provisioner = self.confined(kernel_id)
        body = self.body("profile", "record")
        name, record = body.get("profile"), body.get("record", False)
        if not (name is None or isinstance(name, str)) or not isinstance(record, bool):
            raise web.HTTPError(400, "profile is a name or null, and record is true or false")
        await self._may_restart()
        kernels: Any = self.kernel_manager
        async with self.extension.restarting(kernel_id):
            with refusals():
                # reads files and tries them on this machine
                await asyncio.to_thread(provisioner.stage, name, recording=record)
            good = False
            try:
                # jupyter_server's coroutine gives a future, done once the kernel has answered
                answered = await ensure_async(kernels.restart_kernel(kernel_id))
                await _up(answered, provisioner)
                good = True
            except Exception as error:
                raise web.HTTPError(500, f"the kernel did not start again: {error}") from error
            finally:
                provisioner.settle(good=good)
        self.answer(kernel_state(kernel_id, self.manager(kernel_id)))

    async def _may_restart(self) -> None:
        """Who may not restart kernels may not do so here either."""
        authorizer: Any = self.authorizer
        allowed = authorizer.is_authorized(self, self.current_user, "write", "kernels")
        if not await ensure_async(allowed):
            raise web.HTTPError(403, "User is not authorized to write on resource: kernels.")

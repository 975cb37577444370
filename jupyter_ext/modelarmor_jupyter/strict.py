"""Strict mode: what a confined kernel shows in the browser cannot start an unconfined one.

One line turns it on, on the command line or in any of Jupyter's configuration files::

    jupyter lab --config="$(python -P -m modelarmor_jupyter.strict)"
    c.ServerApp.kernel_spec_manager_class = "modelarmor_jupyter.specs.StrictKernelSpecManager"

It is a name and no import, since Jupyter reports an error in a configuration file and goes on:
without this package the server cannot find the class, and does not start.

`enforce` runs once all configuration is read and before anything is made of it, and overrules it;
what cannot be overruled stops the server. `requirements` then looks at the server as it is, and
the server does not start unless every one holds.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from jupyter_client.provisioning.factory import KernelProvisionerFactory
from jupyter_server.base.handlers import APIHandler
from jupyter_server.serverapp import ServerApp, list_running_servers
from jupyter_server.services.contents.filemanager import FileContentsManager
from jupyter_server.services.kernels.kernelmanager import MappingKernelManager
from jupyter_server.utils import url_path_join
from tornado import web
from traitlets import List, TraitError, Unicode, validate
from traitlets.config import Configurable

from modelarmor_jupyter.contents import StrictContentsManager
from modelarmor_jupyter.guard import content_security_policy, install
from modelarmor_jupyter.messages import StrictConnection
from modelarmor_jupyter.specs import StrictFactory, StrictKernelSpecManager

#: what `jupyter lab --config` takes
CONFIG_FILE: Final = Path(__file__).parent / "strict_config.json"

_MODULE: Final = "modelarmor_jupyter.strict"
#: server extensions that run nothing for a page but kernels
_EXTENSIONS: Final = frozenset({"modelarmor_jupyter", "jupyterlab", "notebook", "notebook_shim"})
#: profiles that come with this package, so that none is allowed for having been saved
_PROFILES: Final = ("notebook", "notebook-online", "untrusted-model", "gpu")
#: what the page itself is told to leave out; the content security policy holds without it
_DISABLED: Final = (
    "@jupyterlab/javascript-extension",
    "@jupyterlab/extensionmanager-extension",
    "@jupyterlab/pluginmanager-extension",
)


class StrictError(TraitError):
    """A server that cannot be strict as it is configured; says what to change."""


class Strict(Configurable):
    """What the administrator adds to what strict mode allows."""

    extensions = List(
        Unicode(),
        help="""Server extensions that may be loaded besides JupyterLab, Notebook and ModelArmor.
        Whatever such an extension does for a page, it does unconfined, as the user.""",
    ).tag(config=True)

    image_sources = List(
        Unicode(),
        help="""Where images may come from besides this server, as in the img-src of a
        Content-Security-Policy (https://images.example.org). A kernel without a network can send
        what it knows to any place that is named here.""",
    ).tag(config=True)

    @validate("image_sources")
    def _one_source_each(self, proposal: Any) -> Any:
        for source in proposal["value"]:
            if not source or any(c in source for c in " ;,\r\n\t") or source.startswith("'"):
                raise TraitError(f"c.Strict.image_sources: {source!r} is not one host or scheme")
        return proposal["value"]


def enforce(app: ServerApp) -> None:
    """Overrule a server's configuration before anything is made of it.

    Raises
    ------
    StrictError
        when it asks for something that has no strict form.
    """
    _refuse_what_has_no_strict_form(app)
    app.reraise_server_extension_failures = True
    app.contents_manager_class = StrictContentsManager
    app.kernel_websocket_connection_class = StrictConnection
    app.allow_external_kernels = False
    app.terminals_enabled = False
    app.allow_unauthenticated_access = False
    app.config.ModelArmor.allow_recording = False
    if "allowed_profiles" not in app.config.ModelArmor:
        app.config.ModelArmor.allowed_profiles = list(_PROFILES)
    KernelProvisionerFactory.clear_instance()
    StrictFactory.instance(parent=app)
    _choose_extensions(app)


def _refuse_what_has_no_strict_form(app: ServerApp) -> None:
    if app.gateway_config.gateway_enabled:
        raise StrictError(
            "strict mode: kernels of a gateway are not started here, so they cannot be confined;"
            " unset c.GatewayClient.url, or leave strict mode off"
        )
    if not issubclass(app.kernel_manager_class, MappingKernelManager):
        raise StrictError(
            f"strict mode: {app.kernel_manager_class.__name__} starts kernels in a way of its own;"
            " unset c.ServerApp.kernel_manager_class"
        )
    if not issubclass(app.contents_manager_class, FileContentsManager):
        raise StrictError(
            f"strict mode serves files of this machine, and {app.contents_manager_class.__name__}"
            " does not; unset c.ServerApp.contents_manager_class"
        )


def _choose_extensions(app: ServerApp) -> None:
    """Leave out extensions that nobody named, and add what guards the others."""
    manager = app.extension_manager
    allowed = _EXTENSIONS | {*Strict(parent=app).extensions}
    for name, package in manager.extensions.items():
        if package.enabled and name not in allowed:
            app.log.warning(
                "strict mode: the server extension %s is not loaded; c.Strict.extensions = [%r]"
                " would have it loaded, and unconfined",
                name,
                name,
            )
            package.enabled = False
    manager.add_extension(_MODULE, enabled=True)  # type: ignore[no-untyped-call]


def _jupyter_server_extension_points() -> list[dict[str, Any]]:
    return [{"module": _MODULE}]


def _load_jupyter_server_extension(app: ServerApp) -> None:
    """Guard the routes and check everything; what this raises stops the server."""
    settings = app.web_app.settings
    install(app.web_app, Strict(parent=app).image_sources)
    settings["page_config_hook"] = _page_config_hook(settings.get("page_config_hook"))
    app.web_app.add_handlers(  # type: ignore[no-untyped-call]
        ".*$", [(url_path_join(app.base_url, "modelarmor/api/strict"), StrictHandler)]
    )
    if missing := [text for text, holds in requirements(app).items() if not holds]:
        raise StrictError(f"strict mode: this does not hold: {'; '.join(missing)}")
    app.log.info("strict mode is on: every kernel is confined, and so is what it shows")


def requirements(app: ServerApp) -> Mapping[str, bool]:
    """What strict mode rests on, in words, and whether it holds on a server."""
    factory = KernelProvisionerFactory.instance(parent=app)
    contents = app.contents_manager
    loaded = {name for name, package in app.extension_manager.extensions.items() if package.enabled}
    armor = app.config.ModelArmor
    return {
        "every kernel is started by the confining provisioner": type(factory) is StrictFactory,
        "kernelspecs that name another provisioner are refused": isinstance(
            app.kernel_spec_manager, StrictKernelSpecManager
        )
        and app.kernel_manager.kernel_spec_manager is app.kernel_spec_manager,
        "no kernel that runs already is joined": not app.allow_external_kernels
        and not app.kernel_manager.external_connection_dir,
        "record mode is off (c.ModelArmor.allow_recording)": armor.allow_recording is False,
        "profiles are allowed by name (c.ModelArmor.allowed_profiles)": armor.allowed_profiles
        is not None,
        "files are served from below the root only": isinstance(contents, StrictContentsManager)
        and not contents.allow_hidden,
        "there are no terminals": not app.terminals_enabled,
        "the server asks who it is (a token or a password)": app.identity_provider.auth_enabled,
        "requests are checked for forgery (c.ServerApp.disable_check_xsrf)": not (
            app.disable_check_xsrf
        ),
        "other origins are shut out (c.ServerApp.allow_origin, allow_origin_pat)": not (
            app.allow_origin or app.allow_origin_pat
        ),
        "the record is kept (modelarmor_jupyter)": "modelarmor_jupyter" in loaded,
        "no other server extension runs (c.Strict.extensions)": loaded
        <= _EXTENSIONS | {_MODULE, *Strict(parent=app).extensions},
        "kernels send no scripts": app.web_app.settings.get("kernel_websocket_connection_class")
        is StrictConnection,
        "pages run this server's scripts only": any(
            transform.__name__ == "StrictHeaders" for transform in app.web_app.transforms
        ),
    }


def _page_config_hook(inner: Any) -> Any:
    """What JupyterLab and Notebook call with the configuration of a page, before it is sent."""

    def hook(handler: Any, page_config: dict[str, Any]) -> dict[str, Any]:
        if inner is not None:
            page_config = inner(handler, page_config)
        # by now a list of names, which both applications made of a mapping
        disabled = {*(page_config.get("disabledExtensions") or ()), *_DISABLED}
        return {
            **page_config,
            "disabledExtensions": sorted(disabled),
            "token": "",  # the cookie will do, and cannot be read from the page
        }

    return hook


class StrictHandler(APIHandler):
    """``GET modelarmor/api/strict``: what strict mode rests on, as it is now."""

    auth_resource = "modelarmor"

    @web.authenticated
    def get(self) -> None:
        """Answer with each requirement."""
        assert self.serverapp is not None
        held = requirements(self.serverapp)
        self.finish(
            json.dumps(
                {
                    "strict": all(held.values()),
                    "requirements": held,
                    "content_security_policy": content_security_policy("/"),
                }
            )
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the path of the configuration file, or say which running servers are strict."""
    parser = argparse.ArgumentParser(
        prog="python -m modelarmor_jupyter.strict",
        description="Print the path of the configuration file that turns strict mode on.",
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="say of each running server of this user whether it is strict; 1 if one is not",
    )
    if not parser.parse_args(arguments).check:
        print(CONFIG_FILE)
        return 0
    answers = [(server["url"], _ask(server)) for server in list_running_servers()]
    for url, wrong in answers:
        print(f"{url}: {'strict' if not wrong else 'not strict: ' + '; '.join(wrong)}")
    if not answers:
        print("no server is running")
    return int(any(wrong for _, wrong in answers))


def _ask(server: Mapping[str, Any]) -> list[str]:
    """What a running server lacks of strict mode."""
    import requests

    try:
        answer = requests.get(
            url_path_join(server["url"], "modelarmor/api/strict"),
            headers={"Authorization": f"token {server['token']}"},
            timeout=10,
        )
        if answer.status_code == 404:
            return ["strict mode is off"]
        answer.raise_for_status()
        held = answer.json()["requirements"]
    except (requests.RequestException, ValueError, KeyError) as error:
        return [f"it does not answer ({error})"]
    return [text for text, holds in held.items() if not holds]


if __name__ == "__main__":
    sys.exit(main())

"""MLflow's own server with the review page in it, for ``mlflow server --app-name …``.

MLflow runs one app. ``modelarmor`` is what it runs without ``--app-name``, with our pages;
``modelarmor-basic-auth`` is its ``basic-auth``, with our pages behind it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from .. import compatibility, plugin

if TYPE_CHECKING:
    from flask import Flask


class NoRegistryError(RuntimeError):
    """A server whose registry is not ModelArmor's has nothing to review."""


def create_app() -> Any:
    """MLflow's server and our pages.

    Raises:
        NoRegistryError: the server was started without our registry.
        UnknownMlflowError: this MLflow was never tried.
    """
    flask_app = _with_pages()
    if not _is_uvicorn():
        return flask_app
    from mlflow.server.fastapi_app import create_fastapi_app

    return _sealed(create_fastapi_app(flask_app))


def create_basic_auth_app() -> Any:
    """MLflow's server with its basic authentication, and our pages behind that; as `create_app`."""
    from mlflow.server import auth

    flask_app = _with_pages()
    # MLflow refuses what it has no rule for. Ours is: whoever has signed in may ask our pages, and
    # these ask MLflow, in that person's name, for each thing that they show.
    from . import routes

    auth.BEFORE_REQUEST_VALIDATORS.update(dict.fromkeys(routes.endpoints(), _signed_in))
    return _sealed(auth.create_app(flask_app))


def _sealed(app: Any) -> Any:
    """The outer application, if there is one, with what our pages say to browsers."""
    if _is_uvicorn():
        from . import guard, routes

        app.add_middleware(guard.Sealing, root=routes.root())
    return app


def _signed_in() -> bool:
    return True


def _with_pages() -> Flask:
    compatibility.check()
    from mlflow.server import app
    from mlflow.server.constants import REGISTRY_STORE_URI_ENV_VAR

    told = os.environ.get(REGISTRY_STORE_URI_ENV_VAR, "")
    if not told.startswith(f"{plugin.SCHEME}:"):
        raise NoRegistryError(
            "the review page needs ModelArmor's registry: start the server with"
            f" --registry-store-uri {plugin.SCHEME}: and the registry's database"
        )
    from . import routes

    routes.add(app)
    flask_app: Flask = app
    return flask_app


def _is_uvicorn() -> bool:
    from mlflow.environment_variables import _MLFLOW_SGI_NAME

    return bool(_MLFLOW_SGI_NAME.get() == "uvicorn")

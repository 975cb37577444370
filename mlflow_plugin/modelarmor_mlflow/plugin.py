"""What MLflow loads: the builder of the store, under the scheme ``modelarmor``.

MLflow imports this in every process that uses it, clients too, so nothing happens here until a
store is wanted. In a server's process the worker starts with the import, as MLflow builds the
store only with the first request, and a queue that a restart interrupted should not wait for one.
"""

from __future__ import annotations

import os
import threading
from typing import Any, Final

SCHEME: Final = "modelarmor"

#: set by `mlflow server` for its processes (mlflow.server.constants)
_REGISTRY_VARIABLE = "_MLFLOW_SERVER_REGISTRY_STORE"


def registry_store(store_uri: str | None = None, tracking_uri: str | None = None) -> Any:
    """Build the registry store.

    Args:
        store_uri: ``modelarmor:`` and the database, as MLflow would have it without us.
        tracking_uri: MLflow's; of no use to a store in a database.

    Raises:
        ValueError: there is no database in the URI.
        UnknownMlflowError: this MLflow was never tried.
    """
    del tracking_uri
    from . import compatibility

    compatibility.check()
    from . import store

    return store.build(database(store_uri or ""))


def database(store_uri: str) -> str:
    """The database of a store URI; raises ValueError where there is none."""
    scheme, _, rest = store_uri.partition(":")
    if scheme != SCHEME or "://" not in rest:
        raise ValueError(
            f"{store_uri.rpartition('@')[2]!r} should be {SCHEME}: and a database, such as"
            f" {SCHEME}:sqlite:////srv/mlflow/mlflow.db"
        )
    return rest


def _start_worker() -> None:
    """In a server's process, build the store once the server is up; that starts the worker."""
    if os.environ.get(_REGISTRY_VARIABLE, "").startswith(f"{SCHEME}:"):
        timer = threading.Timer(2.0, _build)
        timer.daemon = True
        timer.start()


def _build() -> None:
    import logging

    try:
        from mlflow.server import handlers

        handlers._get_model_registry_store()
    except Exception:
        logging.getLogger(__name__).exception("modelarmor: the worker did not start")


_start_worker()

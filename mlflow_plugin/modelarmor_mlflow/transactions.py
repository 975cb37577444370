"""One transaction around several of MLflow's own methods.

Each of them opens a session of its own. To check an approval and set an alias in one transaction,
the methods must share one, so what makes sessions is replaced: inside of `transaction` it hands
out the one that is open in this thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from sqlalchemy.orm import Session

MakeSession = Callable[..., AbstractContextManager[Session]]


class Transactions:
    """Stands in for a store's ``ManagedSessionMaker``."""

    def __init__(self, make: MakeSession) -> None:
        self._make = make
        self._thread = threading.local()

    @contextmanager
    def __call__(self, read_only: bool = True) -> Iterator[Session]:
        """A session as MLflow's method asks for it, or the one that is open."""
        shared: Session | None = getattr(self._thread, "session", None)
        if shared is not None:
            yield shared
            return
        with self._make(read_only=read_only) as session:
            yield session

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """Open a session that every method called meanwhile in this thread shares.

        It goes to the primary database, and is committed at the end, or not at all.
        """
        if getattr(self._thread, "session", None) is not None:
            raise RuntimeError("transactions are not nested")
        with self._make(read_only=False) as session:
            self._thread.session = session
            try:
                yield session
            finally:
                self._thread.session = None

"""Kernels that are being started, which a server does not list before they have.

A start on a cluster takes its time, and its user wants to know what it waits for. Everything is on
the server's event loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from modelarmor_jupyter.confined import Confined

#: called with the identifier of a kernel of which something has changed
listeners: list[Callable[[str], None]] = []
_starts: dict[str, Confined] = {}


@contextmanager
def start(kernel_id: str, provisioner: Confined) -> Iterator[None]:
    """Have a kernel known as one that is being started."""
    _starts[kernel_id] = provisioner
    tell(kernel_id)
    try:
        yield
    finally:
        del _starts[kernel_id]
        tell(kernel_id)


def tell(kernel_id: str) -> None:
    """Say that the kernel waits for something else."""
    for listener in listeners:
        listener(kernel_id)


def is_starting(kernel_id: str) -> bool:
    """Whether the kernel is being started."""
    return kernel_id in _starts


def managers(server: Any) -> dict[str, Any]:
    """The managers of the kernels that are being started.

    Parameters
    ----------
    server
        The kernels' manager of a server; those of another in this process are none of its.
    """
    found = {kernel_id: getattr(item, "parent", None) for kernel_id, item in _starts.items()}
    return {
        kernel_id: manager
        for kernel_id, manager in found.items()
        if manager is not None and getattr(manager, "parent", None) is server
    }

"""What refuses the canary its files where no KubeArmor is, so that the rest can be tried.

It is put in front of a pod's command by tests alone, and denies with Landlock what the canary has
to see denied: two directories. It says nothing of KubeArmor, and no test takes it for enforcement.
It needs Linux 5.13 on the node, and a seccomp profile `RuntimeDefault` with Landlock.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any

from tests.cluster.real import denying


def in_front(command: Iterable[str]) -> list[str]:
    """The command of a container, which begins with its Python, behind the stand-in."""
    words = list(command)
    return [words[0], "-I", "-c", inspect.getsource(denying), *words]


def pods(make: Callable[..., Any]) -> Callable[..., Any]:
    """What makes kernels' pods, with the stand-in in them."""

    def made(*args: Any, **kw: Any) -> Any:
        pod = make(*args, **kw)
        (container,) = pod.spec.containers
        container.command = in_front(container.command)
        return pod

    return made

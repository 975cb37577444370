"""A connection to a Kubernetes API server, and what its refusals mean.

Every call is asynchronous, has a time limit, and is tried again while the server is overloaded,
restarting or away; everything else becomes a `ClusterError` in a user's words.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import aiohttp
from kubernetes.aio import client
from kubernetes.aio import config as _config
from kubernetes.aio.client.exceptions import ApiException

from modelarmor.visible import visible

_T = TypeVar("_T")

#: without types of its own
config: Any = _config

#: where a pod finds the service account that it runs as
ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
CALL_SECONDS: Final = 15.0
_FIRST_PAUSE: Final = 0.25
_LONGEST_PAUSE: Final = 5.0
_MESSAGE_CHARACTERS: Final = 500

#: how KubeArmor's policies are called in a URL
KUBEARMOR: Final = ("security.kubearmor.com", "v1", "kubearmorpolicies")


#: how the API server says that an account lacks a right; other refusals are admission's
_NO_RIGHT: Final = re.compile(r"^$|\bUser \".*\" cannot |^Forbidden$")


class ClusterError(RuntimeError):
    """Something that the cluster would not do; says what, why and what helps."""

    def __init__(self, message: str, *, status: int = 0) -> None:
        super().__init__(message)
        #: the HTTP status, 0 where there was no answer
        self.status = status


class Cluster:
    """The API server as one identity; close it when done."""

    def __init__(self, configuration: Any) -> None:
        self.configuration = configuration
        self.api: Any = client.ApiClient(configuration)
        self.core: Any = client.CoreV1Api(self.api)
        self.networking: Any = client.NetworkingV1Api(self.api)
        self.custom: Any = client.CustomObjectsApi(self.api)

    @classmethod
    async def connect(cls, kubeconfig: str = "", context: str = "") -> Cluster:
        """Connect as a kubeconfig says, or as the pod's own service account.

        Args:
            kubeconfig: a file; empty takes the service account where there is one, then kubectl's.
            context: of the kubeconfig; empty is its current one.

        Raises:
            ClusterError: neither can be read.
        """
        configuration = client.Configuration()
        account = ACCOUNT / "token"
        try:
            if not kubeconfig and account.exists():
                config.load_incluster_config(client_configuration=configuration)
            else:
                await config.load_kube_config(
                    config_file=kubeconfig or None,
                    context=context or None,
                    client_configuration=configuration,
                    persist_config=False,
                )
        except (config.ConfigException, OSError) as error:
            where = kubeconfig or "the default kubeconfig"
            raise ClusterError(f"{where} cannot be used: {error}") from error
        return cls(configuration)

    async def close(self) -> None:
        """Close every connection."""
        await self.api.close()

    async def call(
        self,
        what: str,
        function: Callable[..., Awaitable[_T]],
        *args: Any,
        seconds: float,
        **kw: Any,
    ) -> _T:
        """Call the API, again while it is away or overloaded.

        Args:
            what: the call in words, such as ``create the pod``, for messages.
            function: a method of one of the APIs.
            seconds: for how long to try.

        Raises:
            ClusterError: it refuses, or does not answer in time.
        """
        deadline = time.monotonic() + seconds
        pause = _FIRST_PAUSE
        while True:
            left = deadline - time.monotonic()
            try:
                return await function(
                    *args, _request_timeout=max(0.1, min(CALL_SECONDS, left)), **kw
                )
            except ApiException as error:
                reason = _refused(what, error)
                if error.status not in (429, 500, 502, 503, 504):
                    raise reason from error
                pause = max(pause, _retry_after(error))
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                reason = ClusterError(f"cannot {what}: the API server does not answer ({error!r})")
            if time.monotonic() + pause > deadline:
                raise reason
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)


def _refused(what: str, error: ApiException) -> ClusterError:
    said = str(error.reason or "")
    with contextlib.suppress(ValueError, KeyError, TypeError):
        said = json.loads(error.body or "")["message"]
    said = visible(str(said), _MESSAGE_CHARACTERS)
    status = int(error.status or 0)
    if status == 403 and "quota" in said:
        cure = "the namespace's quota is used up; end other kernels or ask for more"
    elif status == 403 and "is being terminated" in said:
        cure = "the namespace is being deleted"
    elif status == 403 and _NO_RIGHT.search(said) is None:
        cure = "a rule of the cluster or the namespace is against it: see the message"
    elif status == 403:
        cure = "the server's service account may not; see docs/kubernetes.md for its role"
    elif status == 401:
        cure = "the server's credentials are not accepted; renew them"
    elif status == 422:
        cure = "the cluster does not take this object; see the message"
    else:
        cure = ""
    return ClusterError(f"cannot {what}: {said}" + (f" ({cure})" if cure else ""), status=status)


def _retry_after(error: ApiException) -> float:
    try:
        return min(float((error.headers or {}).get("Retry-After", 0)), _LONGEST_PAUSE)
    except (TypeError, ValueError):
        return 0.0

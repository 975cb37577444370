"""Kernels in pods: made in the order that confines them, and gone without a rest.

The order is: Secret, policy, NetworkPolicy, pod; then wait until the kernel answers, which it can
only behind its canary. Ending goes the other way: the pod first, and what confines it when it has
gone. Whatever stops a launch on the way, deleting the Secret deletes everything; what a server left
behind that was killed is swept by its next start.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from modelarmor.cluster import confining, objects
from modelarmor.cluster.admitted import changed_by_the_cluster, changes
from modelarmor.cluster.client import KUBEARMOR, Cluster, ClusterError
from modelarmor.cluster.objects import PodSettings
from modelarmor.cluster.pods import PodState, state_of
from modelarmor.cluster.watch import Watch
from modelarmor.policy.select import UNTRACKED_NAMESPACES
from modelarmor.profiles import Profile

_log = logging.getLogger(__name__)

_POSTURES: Final = ("file", "network", "capabilities")
#: a kubelet that has ended the containers may come back to the pod only after a minute and more
_END_SECONDS: Final = 120.0
_LOOK_SECONDS: Final = 1.0

#: tells the user what a launch waits for
Tell = Callable[[str], None]


class LaunchError(RuntimeError):
    """A kernel that did not start; says why. Nothing of it is left."""


@dataclass(frozen=True, slots=True)
class Order:
    """A kernel that is wanted.

    Attributes:
        kernel_id: a UUID.
        profile: with its templates filled for the container.
        command: what the container runs behind the canary.
        env: its whole environment; ``HOME`` is part of it.
        connection: what its connection file says.
        settings: of its pod.
    """

    kernel_id: str
    profile: Profile
    command: Sequence[str]
    env: Mapping[str, str]
    connection: Mapping[str, Any]
    settings: PodSettings

    @property
    def ports(self) -> list[int]:
        """The kernel's ports."""
        return [int(self.connection[name]) for name in objects.PORT_NAMES]


class Kernels:
    """The kernels of one server in one namespace, which share a connection and two watches."""

    def __init__(
        self, cluster: Cluster, namespace: str, server: str, *, annotate: bool = False
    ) -> None:
        self.cluster, self.namespace, self._annotate = cluster, namespace, annotate
        self._selector = f"{objects.SERVER_LABEL}={server}"
        self._swept = False
        #: the kernels of this process, which no sweep takes
        self._ours: set[str] = set()
        #: the policy that confines each, by its uid
        self._known: dict[str, str] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        arguments = {"namespace": namespace, "label_selector": self._selector}
        core, custom = cluster.core, cluster.custom
        self._pods = Watch(
            cluster,
            core.list_namespaced_pod,
            core.list_namespaced_pod_without_preload_content,
            arguments,
            "pods",
        )
        group, version, plural = KUBEARMOR
        self._policies = Watch(
            cluster,
            custom.list_namespaced_custom_object,
            custom.list_namespaced_custom_object_without_preload_content,
            arguments | {"group": group, "version": version, "plural": plural},
            "KubeArmor policies",
        )
        self._policies.listeners.append(self._policy_changed)

    async def open(self, seconds: float) -> None:
        """Begin to watch.

        Raises:
            ClusterError: the cluster does not answer, refuses, or has no KubeArmor.
        """
        try:
            await self._policies.start(seconds)
        except ClusterError as error:
            if error.status == 404:
                raise ClusterError(
                    "the cluster does not know KubeArmorPolicy: KubeArmor is not installed, so"
                    " nothing would confine a kernel; install it, or set"
                    " c.ModelArmor.enforcer = 'local'",
                    status=404,
                ) from error
            raise
        await self._pods.start(seconds)

    async def close(self) -> None:
        """Let go of the cluster. Kernels that run go on running."""
        for task in [*self._tasks]:
            with contextlib.suppress(ClusterError):
                await task
        await self._pods.stop()
        await self._policies.stop()
        await self.cluster.close()

    async def sweep_once(self, tell: Tell) -> None:
        """Sweep, unless that was done before.

        Raises:
            ClusterError: the Secrets cannot be listed.
        """
        if self._swept:
            return
        self._swept = True
        for left in await self.sweep():
            tell(f"{left} was left behind by an earlier server, and is being deleted")

    async def sweep(self) -> list[str]:
        """End the kernels of this server's name that nobody in this process knows; their names.

        It is not waited for: what lies on a node that was lost may take for ever.

        Raises:
            ClusterError: the Secrets cannot be listed.
        """
        found = await self.cluster.call(
            "list the kernels",
            self.cluster.core.list_namespaced_secret,
            self.namespace,
            label_selector=self._selector,
            seconds=_END_SECONDS,
        )
        left = [str(item.metadata.name) for item in found.items]
        swept = [name for name in left if name not in self._ours]
        for name in swept:
            self._spawn(self._swept_away(name))
        return swept

    async def _swept_away(self, name: str) -> None:
        try:
            await self._remove(name)
        except ClusterError as error:
            _log.error("%s: %s; the next start sweeps it", name, error)

    def adopt(self, kernel_id: str, pod_uid: str) -> bool:
        """Take a kernel over that an earlier process started; whether it is still there."""
        name = objects.name_of(kernel_id)
        state, confined = self.state(kernel_id), self._policies.get(name)
        if state is None or state.uid != pod_uid or confined is None:
            return False
        self._ours.add(name)
        self._known[name] = str(confined["metadata"]["uid"])
        return True

    def state(self, kernel_id: str) -> PodState | None:
        """The pod as the watch saw it last; None where there is none, or its policy has gone."""
        name = objects.name_of(kernel_id)
        pod = self._pods.get(name)
        if pod is None or (name in self._known and not self._confined(name)):
            return None
        return state_of(pod)

    async def launch(
        self,
        order: Order,
        seconds: float,
        answers: Callable[[str], Awaitable[bool]],
        tell: Tell,
        *,
        anew: bool = False,
    ) -> PodState:
        """Start a kernel, or start it again, and wait until it answers.

        Args:
            order: the kernel.
            seconds: the one deadline for everything.
            answers: whether the kernel at an address answers, proved by its keys.
            tell: is given each thing that the launch waits for.
            anew: in a new pod, also where the former one could go on.

        Raises:
            LaunchError, ClusterError, PolicyRefused: it did not start. A first start leaves nothing
                behind.
        """
        deadline = time.monotonic() + seconds
        name = objects.name_of(order.kernel_id)
        policy = objects.policy(order.kernel_id, order.profile, self.namespace)
        denied = confining.denied_files(policy, order.profile.posture)
        self._ours.add(name)
        try:
            await self.sweep_once(tell)
            if anew or not self._in_place(order.kernel_id):
                await self._check_namespace(order.profile, tell, deadline)
                await self._make(order, policy, deadline, tell)
            return await self._answering(order, denied, deadline, answers, tell)
        except BaseException:
            # shielded: a user who gives up must not leave a pod behind
            ending = asyncio.shield(self._spawn(self.end(order.kernel_id)))
            try:
                await ending
            except ClusterError as error:  # it is the launch's error that its user wants
                _log.error("%s: %s; the next start sweeps it", name, error)
            raise

    async def restart(self, kernel_id: str) -> None:
        """End the pod, and keep what a new one needs.

        Raises:
            ClusterError: the cluster does not do so in time.
        """
        await self._remove_pod(objects.name_of(kernel_id))

    async def end(self, kernel_id: str) -> None:
        """End a kernel and delete everything that was made for it.

        Raises:
            ClusterError: the cluster does not do so in time; the next sweep will.
        """
        name = objects.name_of(kernel_id)
        self._known.pop(name, None)
        try:
            await self._remove(name)
        finally:
            self._ours.discard(name)

    def _in_place(self, kernel_id: str) -> bool:
        """Whether the kubelet starts, or has started, the container of the same pod again."""
        state = self.state(kernel_id) if objects.name_of(kernel_id) in self._known else None
        if state is None or state.backing_off or state.canary is not None:
            return False
        again = state.standing == "pending" and state.code is not None
        return state.standing == "running" or again

    async def _check_namespace(self, profile: Profile, tell: Tell, deadline: float) -> None:
        name = self.namespace
        if name in UNTRACKED_NAMESPACES:
            raise LaunchError(f"KubeArmor leaves the namespace {name} alone; choose another")
        wanted = {
            f"kubearmor-{part}-posture": getattr(profile.posture, part) for part in _POSTURES
        } | {"kubearmor-visibility": "process,file,network,capabilities"}
        try:
            found = await self.cluster.call(
                "read the namespace",
                self.cluster.core.read_namespace,
                name,
                seconds=deadline - time.monotonic(),
            )
        except ClusterError as error:
            if error.status != 403:
                raise
            tell("the namespace's annotations cannot be read; the canary decides")
            return
        given = found.metadata.annotations or {}
        wrong = {key: value for key, value in wanted.items() if given.get(key) != value}
        if wrong and self._annotate:
            await self.cluster.call(
                "annotate the namespace",
                self.cluster.core.patch_namespace,
                name,
                {"metadata": {"annotations": wrong}},
                seconds=deadline - time.monotonic(),
            )
            return
        for key, value in wrong.items():
            cure = f"kubectl annotate namespace {name} --overwrite {key}={value}"
            if key.endswith("-posture") and key in given:
                raise LaunchError(
                    f"the namespace {name} has {key}={given[key]}, the profile wants {value}:"
                    f" {cure}"
                )
            tell(f"the namespace does not say {key}={value}, KubeArmor's default holds; {cure}")

    async def _make(self, order: Order, policy: Any, deadline: float, tell: Tell) -> None:
        cluster, settings, where = self.cluster, order.settings, self.namespace
        name = objects.name_of(order.kernel_id)
        labels = objects.labels_of(order.kernel_id, order.profile.name, settings)
        self._known.pop(name, None)

        def left() -> float:
            return deadline - time.monotonic()

        tell("making the Secret, the policy and the pod")
        secret = await self._create(
            "make the Secret",
            cluster.core.create_namespaced_secret,
            where,
            objects.secret(order.kernel_id, labels, order.connection),
            seconds=left(),
            # a new pod gets everything new: no Secret is trusted that lay there
            taken=lambda: self._remove(name),
        )
        owner = objects.owned_by(secret)
        made = await self._create_same(
            "apply the KubeArmorPolicy",
            cluster.custom.create_namespaced_custom_object,
            KUBEARMOR[0],
            KUBEARMOR[1],
            where,
            KUBEARMOR[2],
            objects.policy_document(policy, labels, owner),
            seconds=left(),
        )
        self._known[name] = str(made["metadata"]["uid"])
        self._policies.put(made)
        await self._create_same(
            "apply the NetworkPolicy",
            cluster.networking.create_namespaced_network_policy,
            where,
            objects.network_policy(
                order.kernel_id, labels, owner, order.profile, order.ports, settings
            ),
            seconds=left(),
        )
        pod = await self._create_same(
            "make the pod",
            cluster.core.create_namespaced_pod,
            where,
            objects.pod(
                order.kernel_id,
                labels,
                owner,
                order.profile,
                policy,
                order.command,
                order.env,
                settings,
            ),
            seconds=left(),
        )
        self._pods.put(pod)

    async def _create_same(self, what: str, function: Any, *args: Any, seconds: float) -> Any:
        """Create an object, the last of `args`, and see that the cluster took it as it is."""
        plain = self.cluster.api.sanitize_for_serialization
        made = plain(await self._create(what, function, *args, seconds=seconds))
        asked = plain(args[-1])
        if changed := changes(asked, made):
            raise LaunchError(changed_by_the_cluster(asked["kind"], changed))
        return made

    async def _create(
        self,
        what: str,
        function: Any,
        *args: Any,
        seconds: float,
        taken: Callable[[], Awaitable[None]] | None = None,
    ) -> Any:
        """Create an object; where its name is taken, wait until the former one is collected."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                return await self.cluster.call(
                    what, function, *args, seconds=deadline - time.monotonic()
                )
            except ClusterError as error:
                if error.status != 409 or time.monotonic() + _LOOK_SECONDS > deadline:
                    raise
            await (asyncio.sleep(_LOOK_SECONDS) if taken is None else taken())

    async def _answering(
        self,
        order: Order,
        denied: Mapping[str, str],
        deadline: float,
        answers: Callable[[str], Awaitable[bool]],
        tell: Tell,
    ) -> PodState:
        said = ""
        while True:
            state = self.state(order.kernel_id)
            if state is None:
                raise LaunchError("the pod or its policy was deleted while the kernel started")
            if state.canary is not None:
                raise LaunchError(await self._missing_link(state))
            if state.standing in ("failed", "ending"):
                raise LaunchError(f"the kernel's pod cannot run: {state.why}")
            if state.why != said:
                said = state.why
                tell(said)
            if state.standing == "running" and state.ip and await answers(state.ip):
                return state
            if time.monotonic() > deadline:
                raise LaunchError(
                    f"the kernel did not answer in time ({', '.join(denied)} checked by the"
                    f" canary); last: {said}"
                )
            if state.standing != "running" or not state.ip:
                await self._pods.changed(min(_LOOK_SECONDS, max(0.0, deadline - time.monotonic())))

    async def _missing_link(self, state: PodState) -> str:
        """Which part of the chain from policy to enforcement does not hold, for a person."""
        saw = state.canary or {}
        what = "the policy is not enforced in the pod, so the kernel was stopped: "
        if saw.get("control") != "open":
            return (
                f"{what}the canary could not read its own Secret ({saw.get('control')}), so nothing"
                " can be proved; check the image's user and c.KernelPods.user and group"
            )
        if saw.get("rule") == "denied":
            return (
                f"{what}its Block rules hold and its posture does not. The namespace"
                f" {self.namespace} has the posture audit: kubectl annotate namespace"
                f" {self.namespace} --overwrite kubearmor-file-posture=block"
            )
        return f"{what}{await self._enforcer(state.node)}"

    async def _enforcer(self, node: str) -> str:
        try:
            found = await self.cluster.call(
                "read the node", self.cluster.core.read_node, node, seconds=5.0
            )
            enforcer = (found.metadata.labels or {}).get("kubearmor.io/enforcer")
        except ClusterError as error:
            if error.status == 403:
                return (
                    f"KubeArmor does not run on the node {node}, has no enforcer there, or leaves"
                    f" the namespace {self.namespace} alone (untrackedNs); this server may"
                    " not read nodes, `kubectl get node -L kubearmor.io/enforcer` tells"
                )
            enforcer = None
        if enforcer is None:
            return f"the node {node} has no KubeArmor (no label kubearmor.io/enforcer)"
        if enforcer == "none":
            return f"the node {node} has no enforcer (BPF-LSM or AppArmor), KubeArmor only watches"
        if enforcer == "apparmor":
            return (
                f"on the node {node} KubeArmor enforces by AppArmor, which refuses the whole of a"
                " policy that blocks sctp or dccp, as the profiles do: have kernels start where"
                " kubearmor.io/enforcer is bpf (a node selector)"
            )
        return (
            f"KubeArmor is on the node {node} ({enforcer}) and did not act in time: is its daemon"
            f" up, and is the namespace {self.namespace} tracked (untrackedNs)?"
        )

    async def _remove(self, name: str) -> None:
        await self._remove_pod(name)
        await self._delete("the Secret", self.cluster.core.delete_namespaced_secret, name)

    async def _remove_pod(self, name: str) -> None:
        deadline = time.monotonic() + _END_SECONDS
        if not await self._delete("the pod", self.cluster.core.delete_namespaced_pod, name):
            return
        while self._pods.get(name) is not None:
            if time.monotonic() > deadline:
                raise ClusterError(f"the pod {name} does not end; its node may be lost")
            await self._pods.changed(_LOOK_SECONDS)

    async def _delete(self, what: str, function: Any, name: str) -> bool:
        try:
            await self.cluster.call(
                f"delete {what}",
                function,
                name,
                self.namespace,
                propagation_policy="Background",
                seconds=_END_SECONDS,
            )
        except ClusterError as error:
            if error.status != 404:
                raise
            return False
        return True

    def _confined(self, name: str) -> bool:
        policy = self._policies.get(name)
        if policy is None or policy["metadata"]["uid"] != self._known.get(name):
            return False
        return int(policy["metadata"].get("generation") or 1) == 1  # as it was applied

    def _policy_changed(self, name: str, _policy: Any) -> None:
        """End the pod of a kernel whose policy somebody deleted or changed."""
        if name in self._known and not self._confined(name):
            self._spawn(self._remove_pod(name))

    def _spawn(self, work: Any) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

"""The provisioner that starts a kernel in a pod that KubeArmor confines.

The server makes the connection file, with the kernel's keys, and hands it over as a Secret; a stock
ipykernel reads it. So nothing has to call back, and a pod without any egress works. The messages
are encrypted (CurveZMQ), always: they cross the cluster's network.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from weakref import WeakKeyDictionary

import zmq
import zmq.asyncio
from jupyter_client.connect import KernelConnectionInfo
from jupyter_client.provisioning.provisioner_base import KernelProvisionerBase
from traitlets import Bool, Dict, Enum, Float, Int, List, Unicode
from traitlets.config import Configurable

from modelarmor import profiles
from modelarmor.alerts import Recorder
from modelarmor.cluster.client import Cluster, ClusterError
from modelarmor.cluster.fitting import NoInterpreter, fitted, for_image
from modelarmor.cluster.forward import Forward
from modelarmor.cluster.launch import Kernels, Order
from modelarmor.cluster.objects import (
    PORT_NAMES,
    PodSettings,
    PolicyRefused,
    connection_file,
    name_of,
    policy,
    rules_beside,
)
from modelarmor.cluster.plan import ClusterPlan, plan
from modelarmor.cluster.relay import Feed, Relay, RelayError
from modelarmor.profiles import Profile
from modelarmor.sandbox import CannotConfine
from modelarmor_jupyter import starting
from modelarmor_jupyter.config import ModelArmor, RefusedRequest
from modelarmor_jupyter.confined import Confined
from modelarmor_jupyter.confinement import Confinement, recorded

#: each kernel has five of these; outside of the range that Linux takes for outgoing connections
_PORTS: Final = range(20_000, 32_000)
_BEAT_MILLISECONDS: Final = 1_000
_POLL_SECONDS: Final = 0.1
_PROGRESS_LINES: Final = 50
#: for so long the first kernel waits for the relay, so that its record begins without a gap
_RELAY_SECONDS: Final = 3.0
_NO_RELAY: Final = (
    "alerts are not shown: no relay is named; set c.KernelPods.relay or $MODELARMOR_RELAY to"
    " KubeArmor's, as in kubearmor.kubearmor.svc:32767"
)
_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")


class KernelPods(Configurable):
    """Where and how kernels run on the cluster; no kernelspec has a say in it."""

    image = Unicode("", help="The image of kernels whose profile has none in `images`.").tag(
        config=True
    )
    images = Dict(
        key_trait=Unicode(),
        value_trait=Unicode(),
        help="The image of each profile's kernels, by the profile's name. Name digests.",
    ).tag(config=True)
    resources = Dict(
        help="""What kernels ask for beside their profile's limits, by the profile's name:
        `{"gpu": {"limits": {"nvidia.com/gpu": "1"}, "requests": {"cpu": "1"}}}`.""",
    ).tag(config=True)
    namespace = Unicode(
        "", help="The namespace of kernels. Empty: the server's own, or the kubeconfig's."
    ).tag(config=True)
    server_name = Unicode(
        "",
        help="""What this server's kernels are labelled with. At its start a server ends what an
        earlier server of this name left behind, so no two may share one. Empty: the host's name.
        Set it where that changes with each start.""",
    ).tag(config=True)
    server_pods = Dict(
        help="""Labels of the pods that may connect to kernels; empty: any pod of the server's
        namespace."""
    ).tag(config=True)
    kubeconfig = Unicode("", help="A kubeconfig. Empty: the service account, or kubectl's.").tag(
        config=True
    )
    context = Unicode("", help="A context of the kubeconfig.").tag(config=True)
    python = Unicode("python3", help="The Python of the images.").tag(config=True)
    prefix = Unicode("/opt/conda", help="The images' Python environment, `${PREFIX}`.").tag(
        config=True
    )
    interpreters = Dict(
        key_trait=Unicode(),
        value_trait=Unicode(),
        help="""Which file `PREFIX/bin/python` really is in the image of a profile, by the profile's
        name (`readlink -f` says it). Profiles whose rules name the interpreter, gpu and
        untrusted-model, need it: KubeArmor matches files, not links to them.""",
    ).tag(config=True)
    workspace = Unicode("/workspace", help="Where the workspace is mounted, `${WORKSPACE}`.").tag(
        config=True
    )
    home = Unicode("/home/jovyan", help="The images' home directory, `${HOME}`.").tag(config=True)
    tmp = Unicode("/tmp", help="Where temporary files go, `${TMP}`; a volume.").tag(config=True)
    claim = Unicode(
        "",
        help="The PersistentVolumeClaim of the workspace. Empty: a volume that ends with the pod.",
    ).tag(config=True)
    claim_path = Unicode("", help="The directory of the claim that is mounted.").tag(config=True)
    recording_namespace = Unicode(
        "",
        help="""The namespace of kernels in record mode, with the posture audit and for nothing
        else: KubeArmor's posture holds for a whole namespace. Empty: there is no record mode.""",
    ).tag(config=True)
    recording_claim = Unicode(
        "",
        help="""The PersistentVolumeClaim of the workspace in `recording_namespace`, where
        `claim_path` is mounted. Empty: a volume that ends with the pod.""",
    ).tag(config=True)
    user = Int(1000, min=1, help="The user of the container.").tag(config=True)
    group = Int(100, min=1, help="The group of the container and of its volumes.").tag(config=True)
    runtime_class = Unicode("", help="The pods' runtimeClassName, such as gvisor.").tag(config=True)
    node_selector = Dict(help="Labels of the nodes that may run kernels.").tag(config=True)
    pull_secrets = List(Unicode(), help="Secrets for the images' registry.").tag(config=True)
    annotate_namespace = Bool(
        False,
        help="""Whether the server sets the namespace's posture and visibility to what the profile
        wants. They hold for everything in the namespace; kernels should have one of their own.""",
    ).tag(config=True)
    relay = Unicode(
        "",
        help="""KubeArmor's relay (`host:port`), from which the kernels' alerts are read; its
        certificates are where $MODELARMOR_RELAY_TLS says. Empty: $MODELARMOR_RELAY; where neither
        names one, kernels are confined and nobody is shown their alerts.""",
    ).tag(config=True)
    port_forward = Enum(
        ["auto", "always", "never"],
        default_value="auto",
        help="""Whether the server reaches kernels through the API server instead of at their pods'
        addresses. `auto`: where it does not run in a pod itself.""",
    ).tag(config=True)
    launch_seconds = Float(300.0, min=1.0, help="The deadline of a launch, all included.").tag(
        config=True
    )
    canary_seconds = Float(
        30.0, min=0.0, help="How long the policy may take to be in force in a started container."
    ).tag(config=True)

    @property
    def forwards(self) -> bool:
        """Whether kernels are reached through the API server."""
        return bool(
            self.port_forward == "always" or (self.port_forward == "auto" and not _ACCOUNT.is_dir())
        )

    @property
    def server(self) -> str:
        """This server's label."""
        return str(self.server_name) or socket.gethostname()[:63]

    def place(self, *, recording: bool) -> str:
        """The namespace of a kernel.

        Raises
        ------
        RefusedRequest
            when there is none for record mode.
        """
        confined = str(self.namespace) or _own_namespace()
        if not recording:
            return confined
        if self.recording_namespace in ("", confined):
            raise RefusedRequest(
                "record mode on a cluster takes a namespace of its own, since KubeArmor's posture"
                " holds for a whole one, and every kernel in it is recorded instead of confined:"
                " have c.KernelPods.recording_namespace name one whose posture is audit"
            )
        return str(self.recording_namespace)

    def settings(self, profile: str, namespace: str, *, recording: bool = False) -> PodSettings:
        """What holds for a kernel of this profile.

        Raises
        ------
        RefusedRequest
            when there is no image for it.
        """
        image = self.images.get(profile) or self.image
        if not image:
            raise RefusedRequest(
                f"there is no image for the profile {profile}: have c.KernelPods.images name one"
            )
        more = self.resources.get(profile) or {}
        return PodSettings(
            namespace=namespace,
            server=self.server,
            image=image,
            python=self.python,
            workspace=self.workspace,
            tmp=self.tmp,
            home=self.home,
            claim=self.recording_claim if recording else self.claim,
            claim_path=self.claim_path,
            user=self.user,
            group=self.group,
            requests=more.get("requests") or {},
            limits=more.get("limits") or {},
            runtime_class=self.runtime_class,
            node_selector=self.node_selector,
            pull_secrets=self.pull_secrets,
            canary_seconds=self.canary_seconds,
            server_pods=self.server_pods,
            server_namespace=_own_namespace() if _ACCOUNT.is_dir() else "",
        )


@dataclass(frozen=True, slots=True)
class _Open:
    """What is open while kernels run: the cluster, and the relay where one is named."""

    confined: Kernels
    #: those in record mode, where there is a namespace for them
    recorded: Kernels | None
    feed: Feed | None
    #: why there is no feed
    why: str = ""

    def kernels(self, *, recording: bool) -> Kernels:
        """Those of the one namespace or the other."""
        found = self.recorded if recording else self.confined
        if found is None:
            raise RefusedRequest("there is no namespace for record mode any more")
        return found

    async def sweep_once(self, tell: Callable[[str], None]) -> None:
        """End what an earlier server left behind, in both namespaces."""
        for kernels in filter(None, (self.recorded, self.confined)):
            await kernels.sweep_once(tell)

    async def close(self) -> None:
        """Let go of all of it."""
        if self.feed is not None:
            await self.feed.close()
        for kernels in filter(None, (self.recorded, self.confined)):
            await kernels.close()

    @property
    def not_heard(self) -> str:
        """Why no alert arrives now; empty where they do."""
        if self.feed is None:
            return self.why
        state = self.feed.state
        if state.kind == "connected":
            return ""
        return f"alerts do not arrive: {state.reason or 'the relay has not answered yet'}"


class _Shared:
    """The cluster as the provisioners of one event loop share it; closed with the last of them."""

    def __init__(self) -> None:
        self._open: _Open | None = None
        self._users: set[str] = set()
        self._lock = asyncio.Lock()

    async def acquire(self, kernel_id: str, pods: KernelPods, seconds: float) -> _Open:
        async with self._lock:
            if self._open is None:
                self._open = await _opened(pods, seconds)
            self._users.add(kernel_id)
            return self._open

    async def release(self, kernel_id: str) -> None:
        async with self._lock:
            self._users.discard(kernel_id)
            if not self._users and self._open is not None:
                there, self._open = self._open, None
                await there.close()


async def _opened(pods: KernelPods, seconds: float) -> _Open:
    confined = await _watched(pods, pods.place(recording=False), seconds)
    recorded = None
    try:
        if pods.recording_namespace:
            recorded = await _watched(pods, pods.place(recording=True), seconds)
    except BaseException:
        await confined.close()
        raise
    feed, why = await _feed(pods)
    return _Open(confined, recorded, feed, why)


async def _watched(pods: KernelPods, namespace: str, seconds: float) -> Kernels:
    cluster = await Cluster.connect(pods.kubeconfig, pods.context)
    kernels = Kernels(cluster, namespace, pods.server, annotate=pods.annotate_namespace)
    try:
        await kernels.open(seconds)
    except BaseException:
        await kernels.close()
        raise
    return kernels


async def _feed(pods: KernelPods) -> tuple[Feed | None, str]:
    """The relay's alerts, or why there are none."""
    target = pods.relay or os.environ.get("MODELARMOR_RELAY", "")
    if not target:
        return None, _NO_RELAY
    try:
        feed = Feed(Relay.from_environment({**os.environ, "MODELARMOR_RELAY": target}))
    except ValueError as error:  # a mistake in its address, or about its certificates
        return None, f"alerts are not shown: {error}"
    feed.start()
    with contextlib.suppress(RelayError):  # the kernel's state says so; it is confined all the same
        await feed.connected(_RELAY_SECONDS)
    return feed, ""


_shared: WeakKeyDictionary[asyncio.AbstractEventLoop, _Shared] = WeakKeyDictionary()


class PodProvisioner(Confined, KernelProvisionerBase):
    """Starts a kernel in a pod that is confined, or not at all."""

    profile = Unicode("", help="The profile that the kernelspec asks for.").tag(config=True)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._settings = ModelArmor(parent=self.parent)
        self._pods = KernelPods(parent=self.parent)
        self._shared: _Open | None = None
        #: those of the namespace in which this kernel is
        self._kernels: Kernels | None = None
        self._end_route: Callable[[], None] | None = None
        self._not_routed = ""
        self._forward: Forward | None = None
        #: the kernel's own ports; the server's differ where they are forwarded
        self._ports: dict[str, int] = {}
        self._plan: ClusterPlan | None = None
        #: the confinement of the pod that there is
        self._in_force: Confinement | None = None
        #: the container that was launched: the pod, and how often it had been started again
        self._running: tuple[str, int] | None = None
        self._address_changed = False
        self.connection_info = {}  # the base class keeps one for all of its instances
        self.recorder = Recorder(f"kernel {self.kernel_id}", self._settings.record_capacity)
        #: what the present start has waited for, oldest first
        self.progress: list[str] = []

    @property
    def chosen(self) -> Profile | None:
        """The profile that confines the kernel; None before its first start."""
        return self.confinement.profile if self.confinement is not None else None

    @property
    def plan(self) -> ClusterPlan | None:
        """How KubeArmor enforces the profile; None before the kernel has started."""
        return self._plan if self.has_process else None

    @property
    def places(self) -> dict[str, Path]:
        """What the templates of profiles stand for in the pod, as `profiles.load` has it."""
        pods = self._pods
        return {
            "workspace": Path(pods.workspace),
            "home": Path(pods.home),
            "tmp": Path(pods.tmp),
            "prefix": Path(pods.prefix),
        }

    @property
    def not_heard(self) -> str:
        """Why alerts of this kernel do not arrive; empty where they do."""
        if self._shared is None:
            return "alerts do not arrive: the kernel does not run"
        return self._not_routed or self._shared.not_heard

    def waits_for(self) -> str:
        """The last thing that the start has waited for."""
        return self.progress[-1] if self.progress else super().waits_for()

    async def ended_early(self) -> str | None:
        """What is known of the kernel's end, if it has ended; None while it runs."""
        if await self.poll() is None:
            return None
        state = self._kernels.state(str(self.kernel_id)) if self._kernels is not None else None
        return state.why if state is not None else "Its pod, or the policy of it, has gone."

    @property
    def has_process(self) -> bool:
        """Whether the kernel was launched and not cleaned up."""
        return self._running is not None

    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        """Choose the profile, and make the keys and ports.

        Raises
        ------
        RefusedRequest, ProfileError, PolicyError
            when the kernel must not start or cannot; the message is for its user.
        """
        if not self._confinements:
            self._confinements.append(self._confine(self.profile, recording=False))
        self._adopt_staged()
        assert self.confinement is not None
        self.kernel_spec.interrupt_mode = "message"  # there is no process to signal
        if not self.connection_info:
            self._make_keys()
        kwargs.pop("extra_arguments", None)  # a client's, if anybody's
        command = [
            word.replace("{connection_file}", connection_file(self._pods.tmp))
            for word in self.kernel_spec.argv
        ]
        if Path(command[0]).name.startswith("python"):
            command[0] = self._pods.python  # the server's own Python is not in the image
        kwargs = await super().pre_launch(cmd=command, **kwargs)
        return {**kwargs, "env": self._environment(self.confinement.profile)}

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> KernelConnectionInfo:
        """Start the kernel behind its canary, or again in the same pod; wait until it answers.

        Raises
        ------
        LaunchError, ClusterError, PolicyRefused
            when it did not start; the message is for its user.
        """
        with starting.start(str(self.kernel_id), self):
            return await self._launch(cmd, kwargs["env"])

    async def _launch(self, cmd: list[str], env: dict[str, str]) -> KernelConnectionInfo:
        confinement = self.confinement
        assert confinement is not None
        self.progress = []
        seconds = self._pods.launch_seconds
        try:
            kernels = await self._enter(seconds)
            order = Order(
                str(self.kernel_id),
                self._enforced(confinement.profile, recording=confinement.recording),
                cmd,
                env,
                self._for_the_pod(),
                self._pods.settings(
                    confinement.profile.name,
                    kernels.namespace,
                    recording=confinement.recording,
                ),
            )
            assert self._shared is not None
            await self._shared.sweep_once(self._tell)
            self.started_at = time.time()
            anew = self._in_force is not None and self._in_force is not confinement
            state = await kernels.launch(order, seconds, self._answers, self._tell, anew=anew)
        except BaseException:
            self._running = self._in_force = None
            self._drop_staged()
            await self._release()
            raise
        self._running, self._in_force = (state.uid, state.restarts), confinement
        self._plan = plan(order.profile)
        if self._forward is None:
            self._address_changed = state.ip != self.connection_info["ip"]
            self.connection_info["ip"] = state.ip
        return self.connection_info

    async def post_launch(self, **kwargs: Any) -> None:
        """Have the server listen where the kernel is now: it follows no address by itself."""
        manager: Any = getattr(self.parent, "parent", None)
        known = str(self.kernel_id) in getattr(manager, "_kernels", ())
        if self._address_changed and known and hasattr(manager, "start_watching_activity"):
            manager.stop_watching_activity(self.kernel_id)
            manager.start_watching_activity(self.kernel_id)

    async def poll(self) -> int | None:
        """None while the container that was launched runs; no call is made for it."""
        if self._running is None or self._kernels is None:
            return 0
        state = self._kernels.state(str(self.kernel_id))
        if state is None or state.uid != self._running[0]:
            return 1
        alive = state.restarts == self._running[1] and state.standing == "running"
        return None if alive else (1 if state.code is None else state.code)

    async def wait(self) -> int | None:
        """Wait until the container that was launched has ended."""
        while (code := await self.poll()) is None:
            await asyncio.sleep(_POLL_SECONDS)
        return code

    async def send_signal(self, signum: int) -> None:
        """End the kernel if that is what the signal is for; interrupts are messages."""
        if signum in (9, 15):
            await self.kill()

    async def kill(self, restart: bool = False) -> None:
        """End the pod, unless its container has ended and is starting again."""
        if self._kernels is not None and await self.poll() is None:
            await self._kernels.restart(str(self.kernel_id))

    async def terminate(self, restart: bool = False) -> None:
        """End the pod, which gives the kernel a few seconds."""
        await self.kill(restart)

    async def cleanup(self, restart: bool = False) -> None:
        """Delete everything of the kernel, unless it is about to start again."""
        if restart or self._kernels is None:
            return
        try:
            await self._kernels.end(str(self.kernel_id))
        except ClusterError as error:
            self.log.error("kernel %s: %s; the next start sweeps it", self.kernel_id, error)
        self._running = self._in_force = None
        await self._release()

    async def get_provisioner_info(self) -> dict[str, Any]:
        """What a later server needs to find the kernel again."""
        info = await super().get_provisioner_info()
        return {
            **info,
            "running": self._running,
            "ports": self._ports,
            "profile": self.chosen and self.chosen.name,
            "recording": self.confinement is not None and self.confinement.recording,
        }

    async def load_provisioner_info(self, provisioner_info: dict[str, Any]) -> None:
        """Find a kernel again that an earlier server started.

        Raises
        ------
        ClusterError
            when the cluster does not answer.
        RefusedRequest, ProfileError
            when the profile is not allowed any more, or has gone.
        """
        await super().load_provisioner_info(provisioner_info)
        self.profile = str(provisioner_info.get("profile") or "")
        recording = bool(provisioner_info.get("recording"))
        found = self._confine(self.profile, recording=recording)
        self._confinements = [found]
        self._ports = {name: int(provisioner_info["ports"][name]) for name in PORT_NAMES}
        kernels = await self._enter(self._pods.launch_seconds)
        uid, restarts = provisioner_info["running"]
        if kernels.adopt(str(self.kernel_id), uid):
            self._running, self._in_force = (uid, restarts), found
            self._plan = plan(self._enforced(found.profile, recording=recording))
            self.started_at = time.time()

    def get_shutdown_wait_time(self, recommended: float = 5.0) -> float:
        """Pods take longer to end than processes, in seconds."""
        return max(recommended, 20.0)

    def get_stable_start_time(self, recommended: float = 10.0) -> float:
        """How long a start may take, in seconds."""
        return max(recommended, self._pods.launch_seconds)

    def _confine(self, requested: str, *, recording: bool) -> Confinement:
        if recording:
            self._settings.check_recording()
        namespace = self._pods.place(recording=recording)
        profile = self._for_image(
            profiles.load(
                self._settings.choose(requested),
                search_path=self._settings.search_path(),
                **self.places,
            )
        )
        enforced = self._enforced(profile, recording=recording)
        merged = policy(str(self.kernel_id), enforced, namespace)
        first = self.recorder.last + 1
        return Confinement(profile, (merged,), enforced.posture, recording, first)

    def _for_image(self, profile: Profile) -> Profile:
        pods = self._pods
        try:
            return for_image(profile, pods.prefix, pods.interpreters.get(profile.name, ""))
        except NoInterpreter as error:
            raise RefusedRequest(str(error)) from error

    def _enforced(self, profile: Profile, *, recording: bool) -> Profile:
        """What KubeArmor is given of it."""
        chosen = recorded(profile) if recording else profile
        return fitted(chosen, rules_beside(chosen.policies))

    def stage(self, profile: str | None, *, recording: bool) -> None:
        """Have the next start use this profile, in a new pod; see `Confined.stage`."""
        try:
            super().stage(profile, recording=recording)
        except PolicyRefused as error:
            raise CannotConfine(str(error)) from error

    def _check(self, staged: Confinement) -> None:
        self._pods.settings(staged.profile.name, "")  # there is an image for it

    async def _enter(self, seconds: float) -> Kernels:
        """Be in the namespace where the kernel is to run, and no longer in another."""
        assert self.confinement is not None
        if self._shared is None:
            shared = _shared.setdefault(asyncio.get_running_loop(), _Shared())
            self._shared = await shared.acquire(str(self.kernel_id), self._pods, seconds)
        kernels = self._shared.kernels(recording=self.confinement.recording)
        former, self._kernels = self._kernels, kernels
        if former is not None and former is not kernels:
            await former.end(str(self.kernel_id))
            self._hear_no_more()
        await self._reach(kernels)
        self._hear(kernels.namespace)
        return kernels

    def _hear(self, namespace: str) -> None:
        """Have the pod's alerts recorded: from before there is a pod, through all of its starts."""
        assert self._shared is not None
        if self._end_route is not None or self._shared.feed is None:
            return
        name = name_of(str(self.kernel_id))
        try:
            self._end_route = self._shared.feed.route(namespace, name, self.recorder)
        except ValueError as error:
            self._not_routed = f"alerts are not shown: {error}"

    def _make_keys(self) -> None:
        if not zmq.has("curve"):
            raise RefusedRequest(
                "this server's ZeroMQ cannot encrypt (CurveZMQ), so it starts no kernel on a"
                " cluster; install pyzmq from its wheels"
            )
        km: Any = self.parent
        km.transport, km.cache_ports = "tcp", False
        public, private = zmq.curve_keypair()
        km.curve_publickey, km.curve_secretkey = public, private
        ports = random.sample(_PORTS, len(PORT_NAMES))
        for name, port in zip(PORT_NAMES, ports, strict=True):
            setattr(km, name, port)
        self._ports = dict(zip(PORT_NAMES, ports, strict=True))
        self.connection_info = km.get_connection_info()

    def _for_the_pod(self) -> dict[str, Any]:
        info = {**self.connection_info, **self._ports, "ip": "0.0.0.0"}
        key: Any = info["key"]
        return info | {
            "key": key.decode() if isinstance(key, bytes) else key,
            "kernel_name": self.kernel_spec.language,
        }

    def _environment(self, profile: Profile) -> dict[str, str]:
        """The profile's variables; nothing of the server's, nor of the kernelspec's."""
        own: Mapping[str, str] = {"HOME": os.path.join(self._pods.tmp, "home")}  # noqa: PTH118
        return {**profile.environ({}), **own}

    def _tell(self, what: str) -> None:
        self.log.info("kernel %s: %s", self.kernel_id, what)
        self.progress = [*self.progress, what][-_PROGRESS_LINES:]
        starting.tell(str(self.kernel_id))

    async def _answers(self, address: str) -> bool:
        """Whether the heartbeat at an address echoes, which takes the kernel's keys."""
        info: Any = self.connection_info
        address = address if self._forward is None else info["ip"]
        with zmq.asyncio.Context.instance().socket(zmq.REQ) as beat:
            beat.linger = 0
            beat.curve_serverkey = beat.curve_publickey = info["curve_publickey"].encode()
            beat.curve_secretkey = info["curve_secretkey"].encode()
            beat.connect(f"tcp://{address}:{info['hb_port']}")
            await beat.send(b"ping")
            if await beat.poll(_BEAT_MILLISECONDS):
                return True
        refused = None if self._forward is None else self._forward.refused
        if refused is not None and refused.status == 403:
            raise refused  # time gives no rights
        if refused is not None and str(refused) not in self.progress:
            self._tell(str(refused))
        return False

    def _hear_no_more(self) -> None:
        end, self._end_route = self._end_route, None
        if end is not None:
            end()
        self._not_routed = ""

    async def _reach(self, kernels: Kernels) -> None:
        """Forward the kernel's ports, once: a new pod has the name of the former."""
        if self._forward is not None:
            self._forward.move(kernels.namespace)
        if not self._pods.forwards or self._forward is not None:
            return
        name = name_of(str(self.kernel_id))
        self._forward = Forward(kernels.cluster, kernels.namespace, name)
        local = await self._forward.start(list(self._ports.values()))
        info: Any = self.connection_info
        info["ip"] = "127.0.0.1"
        info.update({name: local[port] for name, port in self._ports.items()})

    async def _release(self) -> None:
        forward, self._forward = self._forward, None
        if forward is not None:
            await forward.stop()
        self._hear_no_more()
        self._shared = self._kernels = None
        shared = _shared.get(asyncio.get_running_loop())
        if shared is not None:
            await shared.release(str(self.kernel_id))


def _own_namespace() -> str:
    account = _ACCOUNT / "namespace"
    return account.read_text().strip() if account.exists() else "default"

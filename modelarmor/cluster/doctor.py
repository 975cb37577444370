"""Whether a cluster can confine what is started on it: each link, before anything relies on it.

What the API says is what somebody wrote there; only the canary in a pod proves enforcement. So what
cannot be known is called that, and is no reason to trust.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Literal

from kubernetes.aio import client

from modelarmor.cluster.client import ACCOUNT, KUBEARMOR, Cluster, ClusterError
from modelarmor.cluster.relay import Relay, RelayError
from modelarmor.policy.select import UNTRACKED_NAMESPACES

_SECONDS: Final = 10.0
_DAEMON: Final = "kubearmor-app=kubearmor"
_CONFIG: Final = "kubearmor-config"
_MOST_NODES: Final = 5

#: what a server does in the namespace of its kernels, as docs/kubernetes.md has it in its Role:
#: (group, resource, verbs)
NEEDED: Final = (
    ("", "secrets", ("create", "list", "delete")),
    ("", "pods", ("create", "list", "watch", "delete")),
    ("networking.k8s.io", "networkpolicies", ("create",)),
    (KUBEARMOR[0], KUBEARMOR[2], ("create", "list", "watch")),
)
#: network plugins by the names of their daemon sets, and whether they enforce NetworkPolicy
_PLUGINS: Final = {
    "calico-node": True,
    "canal": True,
    "cilium": True,
    "antrea-agent": True,
    "kube-router": True,
    "weave-net": True,
    "kube-flannel-ds": False,
}

State = Literal["ok", "warning", "missing", "unknown"]


@dataclass(frozen=True, slots=True)
class Check:
    """One link, and what is to do about it."""

    name: str
    state: State
    found: str
    cure: str = ""

    def to_json(self) -> dict[str, str]:
        """Without what is empty."""
        return {key: value for key, value in asdict(self).items() if value}


async def examine(
    cluster: Cluster, namespace: str, relay: Relay | None = None, *, recording: bool = False
) -> list[Check]:
    """Look at each link between a policy and a pod of this namespace.

    Args:
        cluster: as the server that will start pods, since rights are looked up for who asks.
        namespace: where its pods are.
        relay: where alerts come from; by the environment if left out.
        recording: its pods are in record mode, where what no rule allows has to happen.

    Raises:
        ClusterError: the API server does not answer at all.
    """
    await cluster.call(
        "ask for the version", client.VersionApi(cluster.api).get_code, seconds=_SECONDS
    )
    checks = [
        await _known("policies", _policies(cluster)),
        await _known("daemon", _daemon(cluster)),
        await _known("enforcer", _enforcers(cluster)),
        await _known("namespace", _namespace(cluster, namespace, recording)),
        await _known("throttling", _throttling(cluster)),
        await _known("network policies", _plugin(cluster)),
        await _relay(relay),
    ]
    return checks + [check async for check in _rights(cluster, namespace)]


async def _known(name: str, check: Awaitable[Check]) -> Check:
    """The check, or that it cannot be made: not being told is no answer."""
    try:
        return await check
    except (ClusterError, ValueError) as error:  # a ValueError: an answer that makes no sense
        if isinstance(error, ClusterError) and error.status == 403:
            return Check(name, "unknown", "cannot be known: this account may not look",
                         "run it as an administrator of the cluster; a server needs no such"
                         " right")  # fmt: skip
        return Check(name, "unknown", f"cannot be known: {str(error)[:500]}")


async def _policies(cluster: Cluster) -> Check:
    group, version, plural = KUBEARMOR
    try:
        found = await cluster.call(
            "list KubeArmor's kinds",
            cluster.custom.get_api_resources,
            group,
            version,
            seconds=_SECONDS,
        )
    except ClusterError as error:
        if error.status != 404:
            raise
        found = client.V1APIResourceList(group_version="", resources=[])
    if plural in {item.name for item in found.resources or ()}:
        return Check("policies", "ok", f"KubeArmorPolicy {version}")
    return Check("policies", "missing", "the cluster has no KubeArmorPolicy",
                 "install KubeArmor: https://docs.kubearmor.io")  # fmt: skip


async def _daemon(cluster: Cluster) -> Check:
    apps: Any = client.AppsV1Api(cluster.api)
    found = await cluster.call(
        "list daemon sets",
        apps.list_daemon_set_for_all_namespaces,
        label_selector=_DAEMON,
        seconds=_SECONDS,
    )
    wanted = sum(item.status.desired_number_scheduled or 0 for item in found.items)
    ready = sum(item.status.number_ready or 0 for item in found.items)
    if not wanted:
        return Check("daemon", "missing", "KubeArmor's daemon runs on no node",
                     "install KubeArmor, or see why its operator makes no daemon set")  # fmt: skip
    state: State = "ok" if ready >= wanted else "warning" if ready else "missing"
    cure = "" if state == "ok" else f"kubectl get pods -A -l {_DAEMON}"
    return Check("daemon", state, f"ready on {ready} of {wanted} nodes", cure)


async def _enforcers(cluster: Cluster) -> Check:
    found = await cluster.call("list nodes", cluster.core.list_node, seconds=_SECONDS)
    names = {
        item.metadata.name: (item.metadata.labels or {}).get("kubearmor.io/enforcer", "unlabelled")
        for item in found.items
    }
    counts = Counter(names.values())
    text = ", ".join(f"{name}: {count}" for name, count in sorted(counts.items())) or "no nodes"
    # AppArmor's parser refuses KubeArmor's profile as a whole for the words sctp and dccp.
    weak = sorted(name for name, enforcer in names.items() if enforcer != "bpf")
    if not weak:
        return Check("enforcer", "ok" if names else "missing", text + " (by label, not by proof)")
    shown = ", ".join(weak[:_MOST_NODES]) + (" …" if len(weak) > _MOST_NODES else "")
    return Check(
        "enforcer",
        "missing" if len(weak) == len(names) else "warning",
        f"{text}; these policies are not enforced, or it is not known, on {shown}",
        "start pods only where kubearmor.io/enforcer is bpf (a node selector), and have bpf in lsm="
        " of the other nodes' kernel command line; AppArmor does not know sctp and dccp, which the"
        " profiles block",
    )


async def _namespace(cluster: Cluster, name: str, recording: bool) -> Check:
    found = await cluster.call(
        f"read the namespace {name}", cluster.core.read_namespace, name, seconds=_SECONDS
    )
    if name in UNTRACKED_NAMESPACES:
        return Check("namespace", "missing", f"KubeArmor enforces nothing in {name}",
                     "use another namespace")  # fmt: skip
    annotations = found.metadata.annotations or {}
    posture = "audit" if recording else "block"
    others = [
        key
        for part in ("file", "network", "capabilities")
        if annotations.get(key := f"kubearmor-{part}-posture") != posture
    ]
    shown = set(annotations.get("kubearmor-visibility", "").replace(" ", "").split(","))
    unseen = sorted({"process", "file", "network"} - shown)
    if others:
        wanted = " ".join(f"{key}={posture}" for key in others)
        cure = f"kubectl annotate --overwrite namespace {name} {wanted}"
        if recording:
            told = "the posture is not audit, so what no rule allows is not recorded but refused"
        else:
            told = "what no rule allows is only audited"
            cure += " (look at the namespace of record mode with --recording)"
        return Check("namespace", "missing", f"{told}: {', '.join(others)}", cure)
    if unseen:
        return Check("namespace", "warning",
                     f"posture {posture}; audits of {', '.join(unseen)} raise no alert",
                     f"kubectl annotate --overwrite namespace {name}"
                     " kubearmor-visibility=process,file,network,capabilities")  # fmt: skip
    return Check("namespace", "ok", f"posture {posture}, everything visible")


async def _throttling(cluster: Cluster) -> Check:
    found = await cluster.call(
        "list KubeArmor's configuration",
        cluster.core.list_config_map_for_all_namespaces,
        field_selector=f"metadata.name={_CONFIG}",
        seconds=_SECONDS,
    )
    data: Mapping[str, str] = next((item.data or {} for item in found.items), {})
    if not data:
        return Check("throttling", "unknown", f"cannot be known: there is no {_CONFIG}")
    if data.get("alertThrottling", "true").lower() == "false":
        return Check("throttling", "ok", "off: every alert is reported")
    return Check(
        "throttling",
        "warning",
        f"after {data.get('maxAlertPerSec', '10')} alerts in a second a container is not reported"
        f" on for {data.get('throttleSec', '30')} seconds; it stays confined",
        "set alertThrottling: false in the KubeArmorConfig",
    )


async def _plugin(cluster: Cluster) -> Check:
    apps: Any = client.AppsV1Api(cluster.api)
    found = await cluster.call(
        "list daemon sets", apps.list_daemon_set_for_all_namespaces, seconds=_SECONDS
    )
    names = {item.metadata.name for item in found.items}
    known = {name: enforces for name, enforces in _PLUGINS.items() if name in names}
    name = ", ".join(known)
    if any(known.values()):
        return Check("network policies", "ok", f"{name} enforces them, if it is set up to")
    if known:
        return Check("network policies", "missing", f"{name} enforces none",
                     "use a network plugin that does, such as Calico or Cilium")  # fmt: skip
    return Check(
        "network policies",
        "unknown",
        "cannot be known: no network plugin that this program knows",
        "try one: a pod under a NetworkPolicy without egress must reach nothing",
    )


async def _relay(relay: Relay | None) -> Check:
    try:
        relay = Relay.from_environment() if relay is None else relay
        connection = relay.open()
        try:
            await connection.alive(_SECONDS)
        finally:
            await connection.close()
    except RelayError as error:
        return Check("relay", "missing", str(error),
                     "workloads stay confined, and nobody sees their alerts")  # fmt: skip
    if relay.ca is None:
        return Check("relay", "warning", f"{relay.target} answers, without TLS",
                     "who reaches it reads every alert of the cluster: set tls in the"
                     " KubeArmorConfig and $MODELARMOR_RELAY_TLS")  # fmt: skip
    return Check("relay", "ok", f"{relay.target} answers, with TLS")


async def _rights(cluster: Cluster, namespace: str) -> Any:
    api: Any = client.AuthorizationV1Api(cluster.api)
    create = api.create_self_subject_access_review
    for group, resource, verbs in NEEDED:
        yield await _known(
            f"rights: {resource}", _right(cluster, create, namespace, group, resource, verbs)
        )
    if not ACCOUNT.is_dir():
        forward = await _known(
            "rights: pods/portforward",
            _right(cluster, create, namespace, "", "pods/portforward", ("get",)),
        )
        if forward.state == "missing":  # where the server is to run is not known here
            cure = "a server outside of the cluster needs it, one inside does not"
            forward = replace(forward, state="warning", cure=f"{cure}: docs/kubernetes.md")
        yield forward


async def _right(
    cluster: Cluster,
    create: Callable[..., Awaitable[Any]],
    namespace: str,
    group: str,
    resource: str,
    verbs: Iterable[str],
) -> Check:
    lacking = []
    kind, _, sub = resource.partition("/")
    for verb in verbs:
        asked = client.V1SelfSubjectAccessReview(
            spec=client.V1SelfSubjectAccessReviewSpec(
                resource_attributes=client.V1ResourceAttributes(
                    namespace=namespace, group=group, resource=kind, subresource=sub, verb=verb
                )
            )
        )
        answer = await cluster.call(
            f"ask for the right to {verb} {resource}", create, asked, seconds=_SECONDS
        )
        if not (answer.status and answer.status.allowed):
            lacking.append(verb)
    name = f"rights: {resource}"
    if lacking:
        return Check(name, "missing", f"may not {', '.join(lacking)} in {namespace}",
                     "give the service account the role in docs/kubernetes.md")  # fmt: skip
    return Check(name, "ok", f"may {', '.join(verbs)}")


def render(checks: Iterable[Check]) -> str:
    """The checks for people."""
    lines = []
    for check in checks:
        lines.append(f"{check.state:<8} {check.name:<26} {check.found}")
        if check.cure:
            lines.append(f"{'':<35} → {check.cure}")
    return "\n".join(lines)

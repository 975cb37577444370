"""The objects of a kernel: what they forbid, whose they are, and that KubeArmor takes them."""

from __future__ import annotations

import asyncio
import os
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import KernelManager
from kubernetes.aio import client
from modelarmor_jupyter.config import RefusedRequest
from modelarmor_jupyter.confinement import recorded
from modelarmor_jupyter.enforcers import provisioner
from modelarmor_jupyter.pods import PodProvisioner
from modelarmor_jupyter.provisioner import ModelArmorProvisioner
from traitlets.config import Config

from modelarmor import profiles
from modelarmor.cluster import canary, confining, fitting, objects
from modelarmor.cluster.fitting import for_image
from modelarmor.policy.baseline import baseline_rules
from modelarmor.policy.decide import Operation, OperationKind, Table
from modelarmor.policy.lint.limits import MAX_ENTRIES, entry_cost
from modelarmor.policy.model import Outcome, PathRule, Policy, Posture
from modelarmor.profiles import Profile
from tests.cluster.apiserver.kubelet import expanded

_CRD = Path(__file__).parents[2].parent / "shared" / "conformance" / "crd" / "KubeArmorPolicy.yaml"
_INTERPRETER = "/opt/conda/bin/python3.12"
_SAID = "$(HOME) costs $$5 or $x"
_ID = str(uuid.UUID(int=7))
_SETTINGS = objects.PodSettings(
    "kernels", "server-1", "an/image", limits={"nvidia.com/gpu": "1"}, runtime_class="gvisor"
)


def profile(name: str = "notebook") -> Profile:
    return profiles.load(
        name,
        workspace=Path("/workspace"),
        home=Path("/home/jovyan"),
        tmp=Path("/tmp"),
        prefix=Path("/opt/conda"),
    )


def of_the_image(name: str) -> Profile:
    """As the provisioner has it."""
    chosen = for_image(profile(name), "/opt/conda", _INTERPRETER)
    return fitting.fitted(chosen, objects.rules_beside(chosen.policies))


def plain(make: Any) -> Any:
    """What is sent to the API server."""

    async def run() -> Any:
        async with client.ApiClient() as api:
            return api.sanitize_for_serialization(make())

    return asyncio.run(run())


def parts(name: str = "notebook") -> tuple[Any, Any, Any]:
    chosen = profile(name)
    labels = objects.labels_of(_ID, name, _SETTINGS)
    secret = objects.secret(_ID, labels, {})
    assert secret.metadata is not None
    secret.metadata.uid = "the-owner"
    return chosen, labels, objects.owned_by(secret)


def pod(settings: objects.PodSettings = _SETTINGS) -> Any:
    chosen, labels, owner = parts()
    policy = objects.policy(_ID, chosen, "kernels")
    env = {"HOME": "/tmp/home", "SAID": _SAID}
    return plain(
        lambda: objects.pod(_ID, labels, owner, chosen, policy, ["python3"], env, settings)
    )


def test_the_pod_grants_nothing_that_a_kernel_does_not_need() -> None:
    spec = pod()["spec"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False
    assert spec["runtimeClassName"] == "gvisor"
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    (container,) = spec["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert container["resources"]["limits"]["cpu"] == "4000m"
    assert not {"hostNetwork", "hostPID", "hostIPC"} & {*spec}


def test_no_word_of_the_environment_or_the_command_is_expanded() -> None:
    (container,) = pod()["spec"]["containers"]
    known = {"HOME": "another"}
    env = {item["name"]: expanded(item["value"], known) for item in container["env"]}
    assert env["SAID"] == _SAID
    assert expanded(container["command"][3], known) == Path(canary.__file__).read_text()


def test_an_idle_kernel_does_not_reserve_all_that_it_may_use() -> None:
    settings = replace(_SETTINGS, requests={}, limits={})
    resources = pod(settings)["spec"]["containers"][0]["resources"]
    assert {*resources["limits"]} == {*resources["requests"]}  # else Kubernetes takes the limit
    assert resources["requests"] == {
        "cpu": "250m", "memory": str(1 << 29), "ephemeral-storage": str(1 << 30)
    }  # fmt: skip
    given = pod(replace(settings, requests={"cpu": "2"}))["spec"]["containers"][0]["resources"]
    assert given["requests"]["cpu"] == "2"
    own = pod(replace(settings, limits={"memory": "64Mi"}))["spec"]["containers"][0]["resources"]
    assert "memory" not in own["requests"]  # a request over the limit is refused


def test_everything_is_owned_by_the_secret() -> None:
    chosen, labels, owner = parts()
    network = plain(lambda: objects.network_policy(_ID, labels, owner, chosen, [20_001], _SETTINGS))
    policy = objects.policy_document(objects.policy(_ID, chosen, "kernels"), labels, owner)
    for item in (pod(), network, policy):
        (reference,) = item["metadata"]["ownerReferences"]
        assert (reference["kind"], reference["uid"]) == ("Secret", "the-owner")


def test_without_a_network_in_the_profile_nothing_goes_out() -> None:
    chosen, labels, owner = parts()
    network = plain(lambda: objects.network_policy(_ID, labels, owner, chosen, [20_001], _SETTINGS))
    assert network["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert network["spec"]["egress"] == []
    assert network["spec"]["ingress"] == [
        {
            "ports": [{"port": 20_001, "protocol": "TCP"}],
            "from": [{"podSelector": {"matchLabels": {}}}],
        }
    ]


def test_a_server_in_another_namespace_gets_in_and_its_neighbours_here_do_not() -> None:
    chosen, labels, owner = parts()
    settings = replace(_SETTINGS, server_namespace="servers", server_pods={"app": "lab"})
    network = plain(lambda: objects.network_policy(_ID, labels, owner, chosen, [20_001], settings))
    assert network["spec"]["ingress"][0]["from"] == [
        {
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "servers"}},
            "podSelector": {"matchLabels": {"app": "lab"}},
        }
    ]


def test_what_a_profile_gives_to_be_read_stays_unchanged_while_it_is_recorded() -> None:
    chosen = profile()
    policy = objects.policy(_ID, recorded(chosen), "recordings")
    table = Table([policy], Posture.all("audit"))
    expected: tuple[tuple[str, OperationKind, str], ...] = (
        ("/data/needed.csv", "read", "allow"),
        ("/usr/lib/os-release", "read", "allow"),
        ("/usr/lib/os-release", "write", "block"),
        ("/usr/lib/os-release", "delete", "block"),
        ("/etc/shadow", "read", "block"),
        (f"{confining.DENIED}/denied", "read", "block"),
        (f"{objects.CONNECTION}/connection.json", "read", "allow"),
    )
    for path, kind, verdict in expected:
        assert table.decide(Operation(kind, path)).verdict == verdict, (path, kind)
    # one rule for each key, so that it is not the order which decides
    assert len({(rule.match, rule.value, rule.from_source) for rule in policy.file}) == len(
        policy.file
    )
    assert table.decide(Operation("read", "/data/needed.csv")).posture


def mounted(name: str, *, recording: bool = False) -> dict[str, Any]:
    """The workspace's mount."""
    _, labels, owner = parts(name)
    chosen = of_the_image(name)
    chosen = recorded(chosen) if recording else chosen
    policy = objects.policy(_ID, chosen, "kernels")
    made = plain(
        lambda: objects.pod(_ID, labels, owner, chosen, policy, ["a"], {"HOME": "/tmp"}, _SETTINGS)
    )
    (container,) = made["spec"]["containers"]
    (mount,) = (item for item in container["volumeMounts"] if item["name"] == "workspace")
    found: dict[str, Any] = mount
    return found


@pytest.mark.parametrize("recording", [False, True])
def test_a_workspace_that_is_to_be_read_only_is_mounted_so(recording: bool) -> None:
    # KubeArmor's readOnly would let its files be deleted, renamed and emptied
    assert mounted("untrusted-model", recording=recording)["readOnly"] is True
    assert "readOnly" not in mounted("notebook", recording=recording)


@pytest.mark.parametrize("name", ["notebook", "notebook-online", "untrusted-model", "gpu"])
def test_what_every_program_needs_is_in_the_rules_and_not_left_to_the_posture(name: str) -> None:
    # KubeArmor's posture leaves nothing out
    table = Table([objects.policy(_ID, of_the_image(name), "kernels")], profile(name).posture)
    expected: tuple[tuple[str, OperationKind], ...] = (
        ("/dev/null", "write"),
        ("/dev/urandom", "read"),
        ("/dev/pts/0", "write"),
        ("/etc/ld.so.cache", "read"),
        ("/etc/localtime", "read"),
        ("/usr/share/zoneinfo/UTC", "read"),
        ("/usr/lib/x86_64-linux-gnu/libc.so.6", "read"),
        (_INTERPRETER, "read"),
        (_INTERPRETER, "exec"),
    )
    for path, kind in expected:
        # asked by a program that is not the one executed, whose own file may always be
        decision = table.decide(Operation(kind, path, source="/usr/bin/env", parent="/usr/bin/env"))
        assert decision.verdict == "allow" and decision.rule is not None, (path, kind)
    assert table.decide(Operation("write", "/etc/ld.so.cache")).verdict == "block"


def test_a_rule_on_a_device_is_not_overruled_by_what_every_program_needs() -> None:
    allow, block = Outcome("Allow"), Outcome("Block")
    blocked = PathRule(block, match="directory", value="/dev/", recursive=True)
    some = PathRule(allow, match="directory", value="/usr/", recursive=True)
    policies = [Policy("KubeArmorPolicy", "x", file=(some, blocked))]
    assert not [rule for rule in baseline_rules(policies) if rule.value.startswith("/dev/")]
    assert baseline_rules([Policy("KubeArmorPolicy", "x", file=(blocked,))]) == ()


@pytest.mark.skipif(not _CRD.exists(), reason="KubeArmor's CRDs are not here")
@pytest.mark.parametrize("name", ["notebook", "notebook-online", "untrusted-model", "gpu"])
def test_kubearmors_definition_takes_the_policy_of_each_profile(name: str) -> None:
    _, labels, owner = parts(name)
    policy = objects.policy(_ID, of_the_image(name), "kernels")
    body = objects.policy_document(policy, labels, owner)
    schema = yaml.safe_load(_CRD.read_text())["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    jsonschema.validate(body, schema)
    assert body["spec"]["selector"]["matchLabels"] == {"modelarmor.io/kernel": _ID}


def test_a_profile_over_kubearmors_limit_is_refused() -> None:
    with pytest.raises(objects.PolicyRefused, match="entries"):
        objects.policy(_ID, profile("gpu"), "kernels")


def test_the_gpu_profile_fits_and_its_devices_are_for_the_images_interpreter_alone() -> None:
    merged = objects.policy(_ID, of_the_image("gpu"), "kernels")
    assert entry_cost([merged]) <= MAX_ENTRIES
    table = Table([merged], profile("gpu").posture)
    for device in ("/dev/nvidia0", "/dev/nvidiactl", "/dev/nvidia-caps/nvidia-cap1"):
        for source, verdict in ((_INTERPRETER, "allow"), ("/opt/conda/bin/pip", "block")):
            assert table.decide(Operation("write", device, source=source)).verdict == verdict


@pytest.mark.parametrize("name", ["notebook", "notebook-online", "untrusted-model", "gpu"])
def test_what_every_process_reads_in_proc_is_not_refused_in_a_pod(name: str) -> None:
    """KubeArmor's protectProc would refuse it."""
    presets = [rule.name for rule in objects.policy(_ID, of_the_image(name), "kernels").presets]
    assert presets and "protectProc" not in presets


def test_what_is_left_out_for_want_of_room_is_refused_all_the_same() -> None:
    whole = for_image(profile("gpu"), "/opt/conda", _INTERPRETER)
    fits = of_the_image("gpu")
    rules = [rule for policy in whole.policies for rule in policy.file]
    kept = {id(rule) for policy in fits.policies for rule in policy.file}
    assert any(id(rule) not in kept for rule in rules)
    before, after = (Table(item.policies, item.posture) for item in (whole, fits))
    for rule in rules:
        for path in (rule.value.rstrip("/"), f"{rule.value.rstrip('/')}/inside/it"):
            for kind in ("read", "write", "delete", "exec", "list"):
                for source in (_INTERPRETER, "/usr/bin/cat"):
                    asked = Operation(kind, path, source=source)
                    assert after.decide(asked).verdict == before.decide(asked).verdict, asked


def test_a_profile_with_room_keeps_every_rule() -> None:
    chosen = profile("notebook")
    assert fitting.fitted(chosen, objects.rules_beside(chosen.policies)) is chosen


def test_a_block_inside_of_what_is_permitted_is_never_left_out() -> None:
    inside = Path("/home/jovyan/.ssh/work")  # the workspace lies in what is blocked
    chosen = profiles.load(
        "gpu", workspace=inside, home=Path("/home/jovyan"), tmp=Path("/tmp"),
        prefix=Path("/opt/conda"),
    )  # fmt: skip
    whole = for_image(chosen, "/opt/conda", _INTERPRETER)
    crowd = tuple(PathRule(Outcome("Block"), value=f"/etc/secret-{n}") for n in range(300))
    fits = fitting.fitted(whole, crowd)
    blocked = {rule.value for policy in fits.policies for rule in policy.file}
    assert "/home/jovyan/.ssh/" in blocked
    assert "/home/jovyan/.aws/" not in blocked


def test_a_profile_for_the_interpreter_alone_needs_to_be_told_which_file_that_is() -> None:
    found = made(profile="gpu")
    with pytest.raises(RefusedRequest, match="interpreters to what"):
        asyncio.run(found.pre_launch())
    found = made(profile="gpu")
    found.parent.config.KernelPods.interpreters = {"gpu": _INTERPRETER}
    told = provisioner(
        kernel_id=_ID, kernel_spec=found.kernel_spec, parent=found.parent, profile="gpu"
    )
    asyncio.run(told.pre_launch())
    assert told.chosen is not None
    assert _INTERPRETER in str(told.chosen.policies)


def test_a_kernel_whose_identifier_is_no_uuid_has_no_name() -> None:
    with pytest.raises(ValueError, match="UUID"):
        objects.name_of("../../secrets/another")


# --- what a client may say


def made(**stanza: Any) -> Any:
    config = Config({"KernelPods": {"image": "an/image", "namespace": "kernels"}})
    spec = KernelSpec(
        argv=["python", "-f", "{connection_file}"],
        language="python",
        env={"LD_PRELOAD": "/mnt/evil.so", "KERNEL_NAMESPACE": "another"},
    )
    manager = KernelManager(config=config)
    return provisioner(kernel_id=_ID, kernel_spec=spec, parent=manager, **stanza)


def test_a_kernelspec_configures_nothing_but_its_wish_for_a_profile() -> None:
    found = made(profile="notebook", config=Config(), namespace="another", image="evil")
    assert isinstance(found, PodProvisioner)
    given = asyncio.run(found.pre_launch(env={**os.environ, "SECRET_TOKEN": "x"}))
    assert given["cmd"] == ["python3", "-f", "/tmp/connection.json"]
    assert not {"LD_PRELOAD", "KERNEL_NAMESPACE", "SECRET_TOKEN"} & {*given["env"]}


def test_a_profile_that_is_not_allowed_is_refused() -> None:
    found = made(profile="notebook-online")
    found.parent.config.ModelArmor.allowed_profiles = ["notebook"]
    other = PodProvisioner(
        kernel_id=_ID,
        kernel_spec=found.kernel_spec,
        parent=KernelManager(config=found.parent.config),
        profile="notebook-online",
    )
    with pytest.raises(RefusedRequest, match="does not allow"):
        asyncio.run(other.pre_launch())


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({}, ModelArmorProvisioner),
        ({"KernelPods": {"image": "an/image"}}, PodProvisioner),
        (
            {"KernelPods": {"image": "an/image"}, "ModelArmor": {"enforcer": "local"}},
            ModelArmorProvisioner,
        ),
    ],
)
def test_the_configuration_says_where_a_kernel_is_confined(
    said: dict[str, Any], expected: type
) -> None:
    manager = KernelManager(config=Config(said))
    found = provisioner(kernel_id=_ID, kernel_spec=KernelSpec(), parent=manager)
    assert type(found) is expected

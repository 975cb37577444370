"""``python -m tests.conformance.policies DIRECTORY FILE...``: policies on KubeArmor's own code.

Everything that a policy names is asked for, with what lies beside, above and below it, by every
program that the policy names and by two that it does not. DIRECTORY is as in
``docs/kubearmor.md``; policies of a file apply together, as do those of a profile, which is named
without a slash and taken as its kernels in pods get it.
"""

from __future__ import annotations

import sys
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, get_args

import yaml

from modelarmor.cluster import objects
from modelarmor.policy import document
from modelarmor.policy.decide import Operation, OperationKind
from modelarmor.policy.lint import entry_cost
from modelarmor.policy.model import CapabilityRule, DnsRule, PathRule, Policy, Posture
from tests.cluster.test_kernel_objects import of_the_image

from . import enforcer
from .drawn import SOCKETS, Case

_STRANGERS: Final = ("/usr/bin/bash", "/opt/stranger")
_ATTACKED: Final = (
    "/etc/passwd", "/etc/shadow", "/root/.ssh/id_rsa", "/home/user/.aws/credentials",
    "/proc/1/environ", "/proc/self/maps", "/sys/kernel/x", "/dev/null", "/dev/urandom",
    "/dev/nvidia0", "/dev/shm/x", "/tmp/x", "/usr/bin/curl", "/usr/bin/pip", "/bin/sh",
    "/var/run/secrets/kubernetes.io/serviceaccount/token", "/usr/lib/x86_64-linux-gnu/libc.so.6",
)  # fmt: skip
_PATH_KINDS: Final = tuple(
    kind for kind in get_args(OperationKind) if kind not in ("network", "capability", "syscall")
)


def probes(policies: Sequence[Policy]) -> tuple[Operation, ...]:
    """What is asked of policies."""
    return tuple(dict.fromkeys(_probes(policies)))


def _probes(policies: Sequence[Policy]) -> Iterator[Operation]:
    rules = [
        rule
        for policy in policies
        for rule in (*policy.process, *policy.file, *policy.network, *policy.capabilities)
    ]
    callers = dict.fromkeys([*(s for rule in rules for s in rule.from_source), *_STRANGERS])
    paths = [path for rule in rules if isinstance(rule, PathRule) for path in _near(rule)]
    directories = {
        rule.value.rstrip("/") or "/"
        for rule in rules
        if isinstance(rule, PathRule) and rule.match == "directory"
    }
    domains = [rule.domain for rule in rules if isinstance(rule, DnsRule)]
    capabilities = [rule.capability for rule in rules if isinstance(rule, CapabilityRule)]
    for caller in callers:
        who = {"source": caller, "parent": caller}
        for path in dict.fromkeys([*paths, *_ATTACKED]):
            for kind in _PATH_KINDS:
                if kind == "exec" and path in directories:
                    continue
                for owner in (True, False):
                    yield Operation(kind, path=path, owner=owner, **who)  # type: ignore[arg-type]
        for type_, protocol in SOCKETS:
            yield Operation("network", socket_type=type_, protocol=protocol, **who)  # type: ignore[arg-type]
        for name in capabilities:
            yield Operation("capability", capability=name, **who)  # type: ignore[arg-type]
        for name in (*domains, *(f"www.{name}" for name in domains)):
            yield Operation("network", dns=name, socket_type="dgram", protocol="udp", **who)  # type: ignore[arg-type]


def _near(rule: PathRule) -> Iterator[str]:
    if rule.match == "execname":
        yield f"/usr/bin/{rule.value}"
    elif rule.match == "directory":
        yield from (rule.value.rstrip("/") or "/", f"{rule.value}x", f"{rule.value}x/y")
    elif rule.match == "path":
        yield from (rule.value, f"{rule.value}/x", f"{rule.value}x")
    else:
        yield "".join("x" if character in "*?" else character for character in rule.value)


def case(name: str) -> Case:
    """The policies of a file, under posture block, or of a profile, under its own."""
    posture = Posture()
    if "/" in name:
        policies = document.load(Path(name).read_text(), name=name)
    else:
        profile = of_the_image(name)
        policies = [objects.policy(str(uuid.UUID(int=1)), profile, "kernels")]
        posture = profile.posture
    text = document.dump(policies)
    policies = document.load(text)  # with the place of each rule
    documents = list(yaml.safe_load_all(text))
    for written in documents:
        written["metadata"].setdefault("namespace", "default")
    asked = tuple(op for op in probes(policies) if len(op.path) < 190 and " " not in op.path)
    return Case(documents, policies, posture, asked)


def main(arguments: list[str]) -> int:
    missed = 0
    with enforcer.enforcer(Path(arguments[0])) as real:
        for name in arguments[1:]:
            try:
                asked = case(name)
            except document.PolicyError as error:
                print(f"{name}: not a policy that a cluster takes: {error}")
                continue
            answers = real.answers(asked)
            found = enforcer.differences(asked, answers)
            reasons = Counter(difference.reason for difference in found)
            missed += reasons[""]
            print(
                f"{name}: {answers.entries} entries (counted {entry_cost(asked.policies)}),"
                f" {len(asked.operations)} operations, {len(found)} other verdicts {dict(reasons)}"
            )
            for difference in found:
                if not difference.reason:
                    print("    not explained:", difference)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

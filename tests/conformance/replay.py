"""``python -m tests.conformance.replay DIRECTORY [CASE...]``: KubeArmor's cases on its own code.

Each command of a case is run once where nothing is refused and everything is told. What it did is
then put to KubeArmor's code (see ``docs/kubearmor.md`` for DIRECTORY) and to `decide`, under the
policies that the case has in force, and both are held against what the case expects.

A policy of a cluster or a host is put as one of a namespace: its rules are the same, and which of
them apply is the runner's to say.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import yaml

from modelarmor.alerts.alert import Alert
from modelarmor.policy import document
from modelarmor.policy.decide import Operation
from modelarmor.policy.model import Posture

from . import enforcer, machine, runner
from .drawn import Case
from .workloads import Workload

#: domains are told only by name: every one that a case asks for is in one of these
_DOMAINS: Final = ("com", "io", "org")
_CAPABILITIES: Final = ("net_raw", "dac_override", "chown", "setuid", "setgid", "sys_admin")
_WATCH: Final[dict[str, Any]] = {
    "apiVersion": "security.kubearmor.com/v1",
    "kind": "KubeArmorPolicy",
    "metadata": {"name": "watch"},
    "spec": {
        "selector": {"matchLabels": {"a": "b"}},
        "process": {"matchDirectories": [{"dir": "/", "recursive": True}]},
        "file": {"matchDirectories": [{"dir": "/", "recursive": True}]},
        "network": {
            "matchProtocols": [{"protocol": "all"}],
            "matchDNSQueries": [{"domain": name} for name in _DOMAINS],
        },
        "capabilities": {"matchCapabilities": [{"capability": name} for name in _CAPABILITIES]},
        "action": "Audit",
    },
}

#: whoever starts a container's first program is outside of it
_OUTSIDE: Final = "/usr/bin/runc"


@dataclass(frozen=True, slots=True)
class Command:
    """What a command did, and what came of it."""

    case: str
    words: str
    #: what the case says: ``blocked …``, ``allowed …`` or nothing that can be compared
    expected: str
    operations: int
    #: KubeArmor's code refuses
    refused: tuple[Operation, ...]
    #: KubeArmor's code and `decide` disagree
    differences: tuple[enforcer.Difference, ...]

    @property
    def as_expected(self) -> bool:
        """Whether the case could end on KubeArmor's code as it says.

        Not every refusal keeps a command from its purpose, so what the sandbox refuses too does
        not count where the case expects none: with that it has passed.
        """
        if self.expected.startswith("blocked"):
            return bool(self.refused)
        if self.expected.startswith("allowed"):
            return not any(difference.refused for difference in self.differences)
        return True


class Replay(runner.Run):
    """One case; what its commands came to is in ``commands``."""

    def __init__(
        self,
        case: Mapping[str, Any],
        images: machine.Images,
        scratch: Path,
        real: enforcer.Enforcer,
    ) -> None:
        super().__init__(case, images, scratch)
        self._real = real
        self.commands: list[Command] = []
        self._expected: list[str] = []

    def step(self, step: Mapping[str, Any]) -> None:
        self._expected.append(str(step.get("expected_effective", "")))
        super().step(step)

    def _confined(self, workload: Workload, argv: Sequence[str], *, tty: bool) -> runner.Done:
        ours = [policy for policy in self._active if runner.is_for(policy, workload)]
        posture = Posture.all("block")
        posture = replace(posture, **self._posture.get(workload.namespace, {}))
        ran = self._machine(workload).run(
            runner.command(argv, {"file": "audit"}),
            tty=tty,
            files={runner.POLICY: yaml.safe_dump(_WATCH), runner.ALERTS: None},
            read=[runner.ALERTS],
        )
        lines = ran.files.get(runner.ALERTS, "").splitlines()
        tree = self._images.tree(merged=workload.merged)
        done = tuple(dict.fromkeys(operations(map(Alert.from_json, lines), tree)))
        policies = document.load(yaml.safe_dump_all(ours)) if ours else []
        asked = Case([_namespaced(policy) for policy in ours], policies, posture, done)
        answers = self._real.answers(asked)
        refused = [op for op, is_refused in zip(done, answers.refused, strict=True) if is_refused]
        self.commands.append(
            Command(
                self._case["id"], argv[-1], self._expected[-1], len(done), tuple(refused),
                tuple(enforcer.differences(asked, answers)),
            )
        )  # fmt: skip
        return runner.Done(workload, argv, ran, [])


def _namespaced(policy: Mapping[str, Any]) -> dict[str, Any]:
    spec = {name: value for name, value in policy["spec"].items() if name != "nodeSelector"}
    metadata = {"namespace": "default", **policy["metadata"]}
    return {**policy, "kind": "KubeArmorPolicy", "metadata": metadata,
            "spec": {**spec, "selector": {"matchLabels": {}}}}  # fmt: skip


def operations(alerts: Iterable[Alert], tree: Path) -> Iterator[Operation]:
    """What was told, as operations, with the parent that KubeArmor sees."""
    programs: dict[int, str] = {}
    for alert in alerts:
        parent = programs.get(alert.PPID, _OUTSIDE)
        caller = programs.get(alert.PID, parent)
        who = {"source": caller, "parent": parent, "tty": bool(alert.TTY)}
        if alert.Operation == "Process":
            path = alert.ProcessName
            owner = _owns(alert, tree, path)
            if Path(path).name.startswith("ld-"):  # opened by the kernel, not executed
                yield Operation("read", path=path, owner=owner, **who)
                continue
            arguments = tuple(alert.Resource.removeprefix(path).split())
            yield Operation("exec", path=path, owner=owner, args=arguments, **who)
            programs[alert.PID] = path
        elif alert.Operation == "File":
            kind = alert.EventData["Access"]
            owner = _owns(alert, tree, alert.Resource)
            yield Operation(kind, path=alert.Resource, owner=owner, **who)  # type: ignore[arg-type]
        elif alert.Operation == "Capabilities":
            name = alert.Resource.lower().removeprefix("cap_")
            yield Operation("capability", capability=name, **who)
        elif found := re.fullmatch(
            r"domain=AF_(\w+) type=SOCK_(\w+) protocol=(\w+)", alert.Resource
        ):
            family, type_, protocol = (found[n].lower() for n in (1, 2, 3))
            yield Operation("network", family=family, socket_type=type_, protocol=protocol, **who)
        else:
            yield Operation(
                "network", dns=alert.Resource, socket_type="dgram", protocol="udp", **who
            )


def _owns(alert: Alert, tree: Path, path: str) -> bool:
    """Whether the caller owns the file; what the image has not, the caller has made."""
    file = tree / path.lstrip("/")
    return not file.exists() or file.stat().st_uid == alert.UID


def replay(
    case: Mapping[str, Any], images: machine.Images, scratch: Path, real: enforcer.Enforcer
) -> list[Command]:
    """Every command of a case, in its order."""
    run = Replay(case, images, scratch, real)
    try:
        for step in case["steps"]:
            run.step(step)
    finally:
        run.close()
    return run.commands


def main(arguments: list[str]) -> int:
    directory, wanted = Path(arguments[0]), tuple(arguments[1:])
    commands: list[Command] = []
    with (
        tempfile.TemporaryDirectory(prefix="replay-") as scratch,
        enforcer.enforcer(directory) as real,
    ):
        images = machine.Images(Path(scratch, "images"))
        for number, case in enumerate(runner.load_cases()):
            if case["local_interpreter"] not in runner.RUNNABLE:
                continue
            if wanted and not case["id"].startswith(wanted):
                continue
            found = replay(case, images, Path(scratch, str(number)), real)
            commands += found
            for command in found:
                _tell(command)
    reasons = Counter(d.reason for command in commands for d in command.differences)
    missed = [command for command in commands if not command.as_expected]
    print(
        f"{len({command.case for command in commands})} cases, {len(commands)} commands,"
        f" {sum(command.operations for command in commands)} operations; differences:"
        f" {dict(reasons)}; {len(missed)} commands of {len({command.case for command in missed})}"
        " cases would not end as the case expects"
    )
    return 1 if reasons[""] else 0


def _tell(command: Command) -> None:
    if command.as_expected and not command.differences:
        return
    verdict = "as expected" if command.as_expected else "NOT AS EXPECTED"
    print(f"{command.case}: {command.words}: {command.expected}: {verdict}", flush=True)
    for difference in command.differences:
        op = difference.operation
        what = op.path or op.dns or op.capability or f"{op.socket_type}/{op.protocol}"
        does = "refused" if difference.refused else "allowed"
        print(f"    {op.kind} {what} by {op.source}, {op.parent}: {does}: {difference.reason}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""One case, step by step, as KubeArmor's own test does it, in the sandbox.

Everything comes from the data: which policies apply when, what runs where, with or without a
terminal, what its output must look like and which alerts must or must not appear.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from modelarmor.alerts.alert import PASSED, Alert
from modelarmor.policy import document
from modelarmor.policy.select import selects
from modelarmor.sandbox.process import CANNOT_CONFINE

from . import gomega, workloads
from .image import REPOSITORY
from .machine import Images, Machine, Ran
from .workloads import Workload

#: where the data lies: beside a checkout, or where this says
DATA_VARIABLE: Final = "MODELARMOR_CONFORMANCE"
RUNNABLE: Final = ("yes", "yes+selector", "partial")
POLICY: Final = "/run/conformance/policy.yaml"
ALERTS: Final = "/run/conformance/alerts.jsonl"
_DENIED: Final = "Permission denied"
#: for a workload that no policy selects: confined, and nothing refused
_NO_RULES: Final = {
    "apiVersion": "security.kubearmor.com/v1",
    "kind": "KubeArmorPolicy",
    "metadata": {"name": "none"},
    "spec": {"selector": {"matchLabels": {"none": "none"}}, "severity": 1},
}
_EXACT: Final = ("PolicyName", "Severity", "Action", "Result", "Message", "NamespaceName")
#: Go variables that a case's command names, with what upstream's test gives them
_GO_VARIABLES: Final = {"fname": "/var/lib/mysql/conformance"}
#: cases that cannot pass as they are written, and why
CONTRADICTIONS: Final = {
    "nonk8s_env/host_policy#04": "the case contradicts its policy: audited is unlink below"
    " `/home/`, the command unlinks `/tmp/dummy`, and an alert is expected",
}
#: The older scenarios predate KubeArmor's alerts on capabilities, and look for the refused socket
#: of the one capability that they have among the network alerts.
_OLD_CAPABILITY: Final = {("Network", "SOCK_RAW"): ("Capabilities", "NET_RAW")}
#: Nothing here to do: other workloads of the same case are known without being deployed, and
#: visibility and throttling decide what KubeArmor tells, not what it enforces.
_NOTHING_TO_DO: Final = ("CreateKAConfigMap",)


def data_file() -> Path:
    """Where the cases are, whether or not there are any."""
    return Path(
        os.environ.get(DATA_VARIABLE)
        or REPOSITORY.parent / "shared" / "conformance" / "kubearmor_cases.json"
    )


def load_cases() -> list[dict[str, Any]]:
    """All cases of the data file, in its order; none where there is no such file."""
    path = data_file()
    if not path.exists():
        return []
    cases: list[dict[str, Any]] = json.loads(path.read_text())["cases"]
    return cases


@dataclass
class Check:
    """One thing that was looked at: what, and what is wrong with it if anything is."""

    what: str
    problem: str = ""


@dataclass
class Result:
    """What came of a case."""

    case: str
    checks: list[Check] = field(default_factory=list)
    #: what the case expects that has no counterpart here
    unchecked: list[str] = field(default_factory=list)
    commands: int = 0

    @property
    def problems(self) -> list[str]:
        return [f"{check.what}: {check.problem}" for check in self.checks if check.problem]

    @property
    def passed(self) -> bool:
        return bool(self.checks) and not self.problems


def run_case(case: Mapping[str, Any], images: Images, scratch: Path) -> Result:
    """Run every step of `case`, and look at everything that it expects."""
    run = Run(case, images, scratch)
    try:
        for step in case["steps"]:
            run.step(step)
    except _CannotRun as error:
        run.result.checks.append(Check("the case", str(error)))
    finally:
        run.close()
    return run.result


class _CannotRun(Exception):
    """The case has a step that means nothing here."""


@dataclass(frozen=True)
class Done:
    """A command that ran, and the alerts that the sandbox wrote meanwhile."""

    workload: Workload
    argv: Sequence[str]
    ran: Ran
    alerts: Sequence[Alert]

    @property
    def refused(self) -> bool:
        return _DENIED in self.ran.output or self.ran.status not in (0, None)


class Run:
    def __init__(self, case: Mapping[str, Any], images: Images, scratch: Path) -> None:
        self.result = Result(case["id"])
        self._case = case
        self._images = images
        self._scratch = scratch
        self._numbers = itertools.count()
        self._machines: dict[Any, Machine] = {}
        self._files = _by_file(case)
        #: in force; the older scenarios have no step that applies them
        self._active = [] if _applies(case) else list(case["policies"])
        self._posture: dict[str, dict[str, str]] = {}
        #: commands since an expectation was last followed by a command
        self._window: list[Done] = []
        self._asked = False

    def close(self) -> None:
        for machine in self._machines.values():
            machine.close()

    def step(self, step: Mapping[str, Any]) -> None:
        operation = step["op"]
        if operation in ("exec", "host_exec"):
            self._exec(step, step["argv"])
        elif operation == "docker":
            if step["argv"][:1] != ["exec"]:
                raise _CannotRun(f"a container runtime is wanted: docker {' '.join(step['argv'])}")
            self._exec(step, workloads.docker_words(step["argv"])[1:])
        elif operation == "apply":
            self._active += self._files.get(step["file"], [])
        elif operation == "delete":
            self._change("DELETED", self._files.get(step["file"], []))
        elif operation == "grpc_policy":
            self._change(step["event"], self._files.get(step["file"], []))
        elif operation == "AnnotateNS":
            self._annotate(*step["args"])
        elif operation in ("expect_alert", "expect_log"):
            self._asked = True
            (self._expect_alert if operation == "expect_alert" else self._expect_log)(step)
        elif operation == "telemetry_assert":
            self.result.unchecked.append(f"telemetry: {step['what']} {step['matcher']}")
        elif operation not in _NOTHING_TO_DO:
            raise _CannotRun(f"a step {operation!r} means nothing to this runner")

    def _change(self, event: str, policies: list[dict[str, Any]]) -> None:
        names = {policy["metadata"]["name"] for policy in policies}
        self._active = [p for p in self._active if p["metadata"]["name"] not in names]
        if event != "DELETED":
            self._active += policies

    def _annotate(self, namespace: str, key: str, value: str) -> None:
        if found := re.fullmatch("kubearmor-(file|network|capabilities)-posture", key):
            self._posture.setdefault(namespace, {})[found[1]] = value
        else:
            self.result.unchecked.append(f"annotation {key}")

    def _exec(self, step: Mapping[str, Any], argv: Sequence[str]) -> None:
        if self._asked:
            self._window, self._asked = [], False
        try:
            workload = workloads.of_step(self._case, step)
            argv = [_go_text(word) for word in argv]
        except (LookupError, ValueError) as error:
            raise _CannotRun(str(error)) from error
        done = self._confined(workload, argv, tty=bool(step.get("tty")))
        self._window.append(done)
        self.result.commands += 1
        check = Check(f"`{argv[-1]}`")
        self.result.checks.append(check)
        try:
            wrong = _wrong_outcome(step, done)
        except ValueError as error:
            raise _CannotRun(str(error)) from error
        if wrong:
            check.problem = f"{wrong}; {_told(done)}"
        if expected := step.get("expect_telemetry"):
            self._expect_telemetry(step["expected"], expected, done)

    def _confined(self, workload: Workload, argv: Sequence[str], *, tty: bool) -> Done:
        try:
            ours = [policy for policy in self._active if is_for(policy, workload)]
        except document.PolicyError as error:
            raise _CannotRun(f"a policy is not accepted: {error}") from error
        machine = self._machine(workload)
        posture = {"file": "block", "network": "block", "capabilities": "block"}
        posture |= self._posture.get(workload.namespace, {})
        ran = machine.run(
            command(argv, posture),
            tty=tty,
            files={POLICY: yaml.safe_dump_all(ours or [_NO_RULES]), ALERTS: None},
            read=[ALERTS],
        )
        lines = ran.files.get(ALERTS, "").splitlines()
        alerts = [_placed(Alert.from_json(line), workload) for line in lines]
        return Done(workload, argv, ran, alerts)

    def _machine(self, workload: Workload) -> Machine:
        key = (workload.namespace, tuple(sorted(workload.labels.items())), workload.container)
        if key not in self._machines:
            tree = self._images.tree(merged=workload.merged)
            scratch = self._scratch / str(next(self._numbers))
            hostname = workload.hostname or workload.container
            self._machines[key] = Machine(tree, scratch, hostname)
        return self._machines[key]

    def _expect_alert(self, step: Mapping[str, Any]) -> None:
        fields, watch = step["fields"], step["watch"]
        check = Check(f"alert {_words(fields)}" if step["found"] else f"no alert {_words(fields)}")
        self.result.checks.append(check)
        seen = [
            alert
            for done in self._window
            for alert in done.alerts
            if _watched(alert, watch, done.workload)
        ]
        found = [alert for alert in seen if _matches(alert, fields)]
        if bool(found) is not step["found"]:
            check.problem = f"{'not ' if step['found'] else ''}found; {_listed(seen)}"

    def _expect_log(self, step: Mapping[str, Any]) -> None:
        """Telemetry of what passed has no counterpart: look that it was not refused."""
        check = Check(f"not refused: {_words(step['fields'])}")
        if not self._window or not step["found"] or step["fields"].get("Result") != PASSED:
            self.result.unchecked.append(f"log {_words(step['fields'])}")
            return
        self.result.checks.append(check)
        wanted = {name: step["fields"][name] for name in ("Resource",) if name in step["fields"]}
        if refused := [
            alert
            for alert in self._window[-1].alerts
            if alert.blocked and wanted and _matches(alert, wanted)
        ]:
            check.problem = f"refused; {_listed(refused)}"
        if _DENIED in self._window[-1].ran.output:
            check.problem = _told(self._window[-1])

    def _expect_telemetry(self, expected: str, wanted: Mapping[str, str], done: Done) -> None:
        """The older scenarios: an action that must have, or must not have, been reported."""
        by_posture = wanted["action"] == "default"
        action = "Block" if by_posture else wanted["action"]
        audits = action == "Audit"
        must = audits or expected != "allowed"
        kind, contains = wanted["operation"], wanted["contains"]
        if all("capabilities" in policy["spec"] for policy in self._case["policies"]) and must:
            kind, contains = _OLD_CAPABILITY.get((kind, contains), (kind, contains))
        names = {policy["metadata"]["name"] for policy in self._case["policies"]}
        found = [
            alert
            for alert in done.alerts
            if alert.Operation == kind
            and (contains in alert.Resource or contains in alert.Data)
            and alert.Action == action
            and (alert.Result == PASSED) is audits
            and (not must or alert.PolicyName in ({"DefaultPosture"} if by_posture else names))
        ]
        check = Check(f"{'' if must else 'no '}alert {action} {kind} {contains}")
        self.result.checks.append(check)
        if bool(found) is not must:
            check.problem = f"{'not ' if must else ''}found; {_listed(done.alerts)}"


def _applies(case: Mapping[str, Any]) -> bool:
    return any(step["op"] in ("apply", "grpc_policy") for step in case["steps"])


def _by_file(case: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Which policies a step applies with a file: the data has them in the files' order."""
    files, policies = case["policy_yaml_path"], case["policies"]
    if len(files) == len(policies):
        return {file: [policy] for file, policy in zip(files, policies, strict=True)}
    if len(files) == 1:
        return {files[0]: list(policies)}
    # Several files, some of several documents: by the name that a file shares with its policy.
    return {
        file: [p for p in policies if p["metadata"]["name"] in Path(file).stem] or list(policies)
        for file in files
    }


def is_for(policy: Mapping[str, Any], workload: Workload) -> bool:
    (loaded,) = document.load(yaml.safe_dump(policy))
    return selects(
        loaded,
        namespace=workload.namespace,
        labels=workload.labels,
        container=workload.container,
        hostname=workload.hostname,
    )


def command(argv: Sequence[str], posture: Mapping[str, str]) -> list[str]:
    """``modelarmor run``, from this checkout, with what KubeArmor's tests set."""
    start = f"import sys; sys.path.insert(0, {str(REPOSITORY)!r});"
    start += " from modelarmor.cli import main; sys.exit(main())"
    words = [sys.executable, "-I", "-B", "-c", start, "run", "--alerts", ALERTS]
    words += ["--capabilities", "docker", *_posture_words(posture), "--policy", POLICY]
    return [*words, "--", *argv]


def _posture_words(posture: Mapping[str, str]) -> list[str]:
    values = set(posture.values())
    if len(values) != 1:
        raise _CannotRun(f"a posture of its own for each class: {dict(posture)}")
    return ["--posture", values.pop()]


def _go_text(word: str) -> str:
    """A word of a command; where the data kept Go's expression for it, its value."""
    found = re.fullmatch(r'fmt\.Sprintf\("([^"]*)", ([\w, ]+)\)', word)
    if not found:
        return word
    names = [name.strip() for name in found[2].split(",")]
    if unknown := [name for name in names if name not in _GO_VARIABLES]:
        raise LookupError(f"the command is an expression in Go with {', '.join(unknown)} in it")
    return found[1] % tuple(_GO_VARIABLES[name] for name in names)


def _placed(alert: Alert, workload: Workload) -> Alert:
    """With the names that a cluster's daemon would add; the sandbox knows no pods."""
    names = {"NamespaceName": workload.namespace, "ContainerName": workload.container}
    return Alert.from_json(alert.to_json() | {k: v for k, v in names.items() if v})


def _wrong_outcome(step: Mapping[str, Any], done: Done) -> str:
    """What is wrong with a command's outcome; empty when it is as the case expects."""
    if done.ran.status == CANNOT_CONFINE or ALERTS not in done.ran.files:
        return "the sandbox did not start"
    assertion = step.get("assert")
    if not gomega.vacuous(assertion):
        return "" if gomega.parse(str(assertion))(done.ran.output) else f"not {assertion}"
    expected = str(step["expected_effective"])
    if expected.startswith("blocked"):
        return "" if done.refused else "not refused"
    if expected.startswith("allowed"):
        # The older scenarios compare the exit status; elsewhere the command's own failure is fine.
        asserted = "expect_telemetry" in step and done.ran.status != 0
        return "refused" if asserted or _DENIED in done.ran.output else ""
    return ""


def _watched(alert: Alert, watch: Mapping[str, Any], workload: Workload) -> bool:
    namespace = watch.get("namespace")
    if namespace and workload.namespace and namespace != workload.namespace:
        return False
    return not watch.get("operation") or alert.Operation == watch["operation"]


def _matches(alert: Alert, fields: Mapping[str, str]) -> bool:
    """KubeArmor's own comparison: some fields as a whole, others by a part."""
    for name, value in fields.items():
        actual = str(getattr(alert, name))
        if actual != value if name in _EXACT else value not in actual:
            return False
    return True


def _words(fields: Mapping[str, str]) -> str:
    return ", ".join(f"{name}={value}" for name, value in fields.items() if value)


def _told(done: Done) -> str:
    return f"status {done.ran.status}, output {done.ran.output[-300:]!r}, {_listed(done.alerts)}"


def _listed(alerts: Sequence[Alert]) -> str:
    told = [
        f"{a.Action} {a.Operation} {a.Resource} by {a.Source} ({a.PolicyName})" for a in alerts[-6:]
    ]
    return f"{len(alerts)} alerts: {'; '.join(told)}" if told else "no alerts"

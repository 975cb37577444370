"""`modelarmor run` and `modelarmor doctor`."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from modelarmor.alerts import Alert
from modelarmor.policy import document
from modelarmor.policy.capabilities import CAPABILITIES
from modelarmor.policy.model import Posture
from modelarmor.sandbox.network import Egress
from modelarmor.sandbox.plan import DOCKER_CAPABILITIES
from modelarmor.sandbox.probe import probe
from modelarmor.sandbox.process import CANNOT_CONFINE, CannotConfine, Sandbox, Workload
from modelarmor.scratch import Scratch, sweep
from modelarmor.visible import visible

_RUN_EXAMPLES = """\
examples:
  modelarmor run -- python train.py
        the profile `notebook`: the current directory is the workspace, no network
  modelarmor run --profile untrusted-model --workspace model/ -- python load.py
  modelarmor run --policy policy.yaml -- bash
        a KubeArmorPolicy of your own, and nothing else
  modelarmor run --policy policy.yaml --posture audit --alerts alerts.jsonl -- ./job
        refuse only what Block rules say, write the rest down
  modelarmor run --plan -- python
        show how each rule would be enforced here, and start nothing

Exit status: the command's (128 + N if signal N ended it); 125 when it cannot be confined, 126 when
it cannot be executed, 127 when it is not found.
"""


def add_parsers(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands of this room to the command line."""
    run = subparsers.add_parser(
        "run",
        help="run a command confined",
        description="Run a command in the embedded sandbox. What it is refused appears on standard"
        " error as it happens.",
        epilog=_RUN_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    run.add_argument("--profile", metavar="NAME", help="a profile (see `modelarmor profiles`);"
                     " `notebook` when neither it nor --policy is given")  # fmt: skip
    run.add_argument("--policy", metavar="FILE", type=Path, action="append", default=[],
                     help="a KubeArmorPolicy, in addition to the profile's if one is named;"
                     " may be repeated")  # fmt: skip
    run.add_argument("--posture", choices=("block", "audit"),
                     help="what happens to what no rule names, where there are Allow rules"
                     " (default: the profile's, or block)")  # fmt: skip
    run.add_argument("--network", metavar="FILE", type=Path,
                     help="a NetworkPolicy whose egress limits where the command may connect to"
                     " (default: the profile's, or no limit)")  # fmt: skip
    run.add_argument("--workspace", metavar="DIR", type=Path, default=Path(),
                     help="what the command works on (default: the current directory)")  # fmt: skip
    run.add_argument("--alerts", metavar="FILE",
                     help="append alerts to FILE as JSON lines with KubeArmor's field names,"
                     " instead of showing them on standard error; - is standard output, where they"
                     " mix with what the command writes: a file, or a descriptor such as"
                     " /dev/fd/3, keeps them apart")  # fmt: skip
    run.add_argument("--capabilities", metavar="LIST", default="none",
                     help="Linux capabilities that the command keeps: none (default), docker (what"
                     " Docker leaves root in a container), or names such as"
                     " net_raw,chown")  # fmt: skip
    run.add_argument("--plan", action="store_true", help="show the plan and start nothing")
    run.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND ...")
    run.set_defaults(run=_run)

    doctor = subparsers.add_parser(
        "doctor",
        help="what this machine can enforce",
        description="Try what the sandbox needs on this machine, and say what is enforced how."
        " Exit status 1 when nothing can be confined here.",
    )
    doctor.add_argument(
        "--format", choices=("text", "json"), default="text", help="(default: text)"
    )
    doctor.add_argument(
        "--json", dest="format", action="store_const", const="json", help="as --format json"
    )
    doctor.set_defaults(run=_doctor)


_APPEND = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC


def _run(arguments: argparse.Namespace) -> int:
    command: list[str] = arguments.command
    if command[:1] == ["--"]:
        command = command[1:]
    if not command:
        raise ValueError("there is no command to run: put it after --, as in `run -- python x.py`")
    if _is_run(command):
        raise ValueError("a sandbox cannot be started inside of a sandbox: name the command itself")
    sweep()
    scratch = Scratch(sockets=False)
    try:
        workload = _workload(arguments, command, scratch.path)
        if arguments.plan:
            return _show_plan(workload)
        with contextlib.ExitStack() as stack:
            sink: Callable[[Alert], None] = show_alert
            if arguments.alerts is not None:
                sink = stack.enter_context(contextlib.closing(_Sink(arguments.alerts)))
            try:
                return _follow(Sandbox.start(workload, alerts=sink))
            except CannotConfine as error:
                _tell(f"cannot confine: {error}")
                return CANNOT_CONFINE
    finally:
        scratch.release()


def _is_run(command: list[str]) -> bool:
    """Whether it is this very command again; the sandbox might not even let it be imported."""
    if command[1:3] == ["-m", "modelarmor"] and Path(command[0]).name.startswith("python"):
        command = command[2:]
    return Path(command[0]).name == "modelarmor" and command[1:2] == ["run"]


def _follow(process: Any) -> int:
    import signal

    # The terminal's own signals reach the command too; it decides, and its end is ours.
    signal.signal(signal.SIGINT, lambda *_: None)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda received, _: process.send_signal(received))
    code: int = process.wait()
    suppressed = process.recorder.counts.suppressed
    if suppressed:
        _tell(f"{suppressed} more alerts were counted, not listed")
    return 128 - code if code < 0 else code


def _workload(arguments: argparse.Namespace, command: list[str], scratch: Path) -> Workload:
    from modelarmor import profiles

    workspace = arguments.workspace.resolve()
    if not workspace.is_dir():
        raise ValueError(f"--workspace {arguments.workspace}: is not a directory")
    prefix = Path(os.environ.get("VIRTUAL_ENV") or sys.prefix)
    policies, problems = profiles.read(
        arguments.policy, workspace=workspace, tmp=scratch, prefix=prefix, model=None
    )
    if problems:
        raise document.PolicyError(problems)
    if arguments.policy and not policies:
        raise ValueError("--policy: there is no policy in it, so nothing would be confined")
    network = Egress.from_network_policy(arguments.network) if arguments.network else None
    posture = Posture.all(arguments.posture) if arguments.posture else None
    capabilities = _capabilities(arguments.capabilities)
    name = Path(command[0]).name
    if arguments.policy and not arguments.profile:
        return Workload(
            name, command, policies, posture or Posture(), network or Egress.unrestricted(),
            capabilities=capabilities, cwd=workspace,
        )  # fmt: skip
    profile = profiles.load(
        arguments.profile or "notebook",
        workspace=workspace,
        home=Path.home(),
        tmp=scratch,
        prefix=prefix,
    )
    # `python` is the one whose environment the profile grants, not a shim in the home directory.
    path = os.pathsep.join((str(prefix / "bin"), os.environ.get("PATH", os.defpath)))
    return replace(
        Workload(name, command, [*profile.policies, *policies], profile.posture, profile.network),
        posture=posture or profile.posture,
        network=network or profile.network,
        resources=profile.resources,
        capabilities=capabilities,
        env=profile.environ({**os.environ, "PATH": path}),
        cwd=workspace,
    )


def _capabilities(text: str) -> frozenset[str]:
    if text == "none":
        return frozenset()
    if text == "docker":
        return DOCKER_CAPABILITIES
    names = frozenset(name.strip().lower().removeprefix("cap_") for name in text.split(","))
    if unknown := names - set(CAPABILITIES):
        raise ValueError(f"--capabilities: there is no {', '.join(sorted(unknown))}")
    return names


def _show_plan(workload: Workload) -> int:
    from modelarmor.sandbox.planner import make_plan

    report = probe()
    program = shutil.which(workload.command[0]) or workload.command[0]
    plan = make_plan(
        workload.policies, workload.posture, egress=workload.network,
        resources=workload.resources, capabilities=workload.capabilities,
        command=[program, *workload.command[1:]], machine=report.machine,
    )  # fmt: skip
    print(plan.describe())
    for reason in report.reasons:
        print(f"cannot be confined here: {reason}")
    return CANNOT_CONFINE if report.reasons or plan.unenforceable else 0


class _Sink:
    """Where ``--alerts`` says; what cannot be written there is told once, and counted."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._lost = 0
        try:
            self._file = sys.stdout.fileno() if where == "-" else os.open(where, _APPEND, 0o666)
        except OSError as error:
            missing = not Path(where).parent.is_dir()
            problem = f"there is no directory {Path(where).parent}" if missing else error.strerror
            raise ValueError(f"--alerts {where}: cannot be written: {problem}") from error

    def __call__(self, alert: Alert) -> None:
        line = json.dumps(alert.to_json()).encode() + b"\n"
        try:
            while line:
                line = line[os.write(self._file, line) :]
        except OSError as error:
            if not self._lost:
                _tell(f"--alerts {self._where}: cannot be written: {error.strerror}")
            self._lost += 1

    def close(self) -> None:
        """Say how many are missing."""
        if self._lost:
            _tell(f"--alerts {self._where}: {self._lost} alerts are not in it")
        if self._where != "-":
            os.close(self._file)


def _tell(what: str) -> None:
    print(f"modelarmor: {what}", file=sys.stderr, flush=True)


def show_alert(alert: Alert) -> None:
    """Tell of an alert in one line on stderr."""
    verb = "refused" if alert.blocked else "noticed"
    if alert.Operation == "AlertThreshold":
        more, operation = alert.EventData["Suppressed"], alert.EventData["Operation"].lower()
        _tell(f"{verb} {more} more: {operation}  [{alert.PolicyName}]")
        return
    program = Path(alert.ProcessName or alert.Source.split(" ", 1)[0]).name
    line = f"{verb} {alert.Operation.lower()} {visible(alert.Resource, 160)}  [{alert.PolicyName}]"
    if alert.Operation != "Process" and program:
        line += f" by {visible(program)}"
    _tell(f"{line}: {alert.Message}" if alert.Message else line)


def _doctor(arguments: argparse.Namespace) -> int:
    report = probe()
    if arguments.format == "json":
        print(json.dumps(report.to_json(), indent=2))
        return 0 if report.can_confine else 1
    mark = {True: "yes", False: "no"}
    print(f"kernel            {report.kernel} ({report.architecture}), uid {report.uid}")
    print(f"Landlock          ABI {report.landlock_abi or 'none'}")
    print(f"supervision       {mark[report.user_notification]}")
    print(f"acts on sockets   {mark[report.acts_on_sockets]}")
    print(f"control groups    {', '.join(report.control_groups) or 'none'}")
    print(f"helper            {report.helper}")
    for note in report.notes:
        print(f"note: {note}")
    for reason in report.reasons:
        print(f"MISSING: {reason}")
    print("Workloads can be confined here." if report.can_confine
          else "Nothing can be confined here, so nothing will be started.")  # fmt: skip
    return 0 if report.can_confine else 1

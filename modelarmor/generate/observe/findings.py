"""What is alarming in what was seen while a model was watched.

Each finding rests on an alert of the enforcer, or on a canary's secret that turned up somewhere.
Nothing that the model says is believed.
"""

from __future__ import annotations

import base64
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

from modelarmor.alerts import Alert
from modelarmor.generate.evidence import Finding, Phase, Severity
from modelarmor.generate.observe.cage import CANARY_FILES, CANARY_VARIABLES, FOREIGN
from modelarmor.generate.observe.probes import looked, probed
from modelarmor.generate.places import Places, shown
from modelarmor.generate.replay import described
from modelarmor.policy.decide import Operation
from modelarmor.sandbox.events import EGRESS_POLICY, SANDBOX_POLICY

SOURCE: Final = "observation"
#: so many findings are listed; a model that raises more has told enough
MAX_FINDINGS: Final = 200
_MAX_SCANNED: Final = 64 << 20

_SHELLS: Final = frozenset(
    ("sh", "bash", "dash", "zsh", "ksh", "fish", "busybox", "tcsh", "csh", "rbash")
)
_WRITING: Final = frozenset(("write", "create", "delete", "metadata"))
#: where something that was left runs later, outside of the sandbox
_PERSISTENCE: Final = re.compile(
    r"/etc/(cron|systemd|init|rc|profile|ld\.so\.preload|environment|bash)|/var/spool/cron"
    r"|(^|/)\.(bashrc|bash_profile|bash_login|profile|zshrc|zshenv|zprofile|xinitrc|gitconfig)$"
    r"|/\.config/(autostart|systemd|fish)/|/\.(ipython|local/bin|ssh/authorized_keys)"
    r"|/(sitecustomize|usercustomize)\.py$|\.pth$|/\.git/hooks/"
)


class _Found:
    """Findings as they come, each once, with how often it was seen in which phases."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, Severity, str, str, tuple[str, ...]], Counter[Phase]] = {}

    def add(
        self, rule: str, severity: Severity, title: str, location: str, techniques: tuple[str, ...],
        *, phase: Phase, count: int,
    ) -> None:  # fmt: skip
        key = (rule, severity, title, location[:300], techniques)
        self._seen.setdefault(key, Counter())[phase] += count

    def __iter__(self) -> Iterator[Finding]:
        for (rule, severity, title, location, techniques), phases in self._seen.items():
            yield Finding(
                rule=rule,
                severity=severity,
                title=title,
                # How often is chance; when is not, and a waiver holds for what is always so.
                detail="while " + ", ".join(DURING[p] for p in DURING if phases[p]),
                location=location,
                source=SOURCE,
                techniques=techniques,
            )


DURING: Final[Mapping[Phase, str]] = {
    "start": "the loader started", "load": "it was loaded", "serve": "it predicted",
}  # fmt: skip


def findings(alerts: Iterable[tuple[Phase, Alert, int]], places: Places) -> tuple[Finding, ...]:
    """What the alerts of an observation say, worst first."""
    found = _Found()
    for phase, alert, count in alerts:
        asked = described(alert)

        def add(
            rule: str, severity: Severity, title: str, location: str, *techniques: str,
            _phase: Phase = phase, _count: int = count,
        ) -> None:  # fmt: skip
            found.add(rule, severity, title, location, techniques, phase=_phase, count=_count)

        if alert.Operation == "Resource":
            what = alert.Resource
            add("limit-reached", "medium", "It reached a limit of what it may use", what,
                "T1496", "AML.T0029")  # fmt: skip
        elif alert.PolicyName == EGRESS_POLICY:
            _network(alert, add)
        elif asked is not None:
            own = (str(alert.PID), str(alert.HostPID))
            meant = places.event(asked, own)
            if alert.PolicyName == SANDBOX_POLICY:
                what = shown(meant.path) or asked.syscall
                add("kernel-refused", "high", "It asked for what nothing in a sandbox may do", what,
                    "T1611", "AML.T0105")  # fmt: skip
            elif asked.kind == "exec":
                _program(meant, add)
            elif asked.kind in ("read", "list", *_WRITING):
                _file(meant, alert, add)
            elif asked.kind in ("network", "capability", "syscall") and alert.blocked:
                what = asked.capability or asked.protocol or asked.syscall
                add("refused", "medium", f"It was refused a {asked.kind}", what, "T1095")
    order = ("critical", "high", "medium", "low", "info")
    ranked = sorted(found, key=lambda f: (order.index(f.severity), f.rule, f.location, f.detail))
    return tuple(ranked[:MAX_FINDINGS])


_Add = Callable[..., None]


def _network(alert: Alert, add: _Add) -> None:
    said = dict(word.partition("=")[::2] for word in alert.Resource.split())
    address, port = said.get("remoteip", ""), said.get("port", "")
    if "SYS_BIND" in alert.Data or "SYS_LISTEN" in alert.Data:
        if port == "0" and address in ("::1", "127.0.0.1", "::", "0.0.0.0"):
            # urllib3 finds out so whether there is IPv6; nobody can reach a random port
            add("probed-network", "info", "It looked whether there is a network",
                f"{address} port {port}")  # fmt: skip
            return
        add("listened", "high", "It tried to listen for connections", alert.Resource, "T1571",
            "AML.T0072")  # fmt: skip
    elif address == "169.254.169.254":
        add("cloud-metadata", "critical", "It asked for the machine's cloud credentials",
            f"{address} port {port}", "T1552.005", "AML.T0055")  # fmt: skip
    elif address:
        add("connected", "high", "It tried to reach a network address", f"{address} port {port}",
            "T1041", "T1071", "AML.T0025")  # fmt: skip
    elif said.get("domain") == "AF_INET6":
        add("probed-network", "info", "It looked whether there is a network", alert.Resource)
    else:
        add("opened-socket", "medium", "It tried to open a socket", alert.Resource, "T1095")


def _program(asked: Operation, add: _Add) -> None:
    name = asked.path.rpartition("/")[2]
    line = " ".join((shown(asked.path), *asked.args))
    if asked.path == asked.source:
        return  # the interpreter started itself, as multiprocessing does
    if name in _SHELLS:
        add("started-shell", "critical", "It started a shell", line, "T1059.004", "AML.T0050")
    elif asked.fileless:
        add("fileless-program", "critical", "It ran a program that has no file", line, "T1620")
    elif why := probed(asked):
        add("probed-system", "info", f"It started {name}: {why}", line)
    else:
        add("started-program", "high", f"It started {name}", line, "T1059", "T1106", "AML.T0050")


def _file(asked: Operation, alert: Alert, add: _Add) -> None:
    path, writes = shown(asked.path), asked.kind in _WRITING
    canary = path.removeprefix("${TMP}/home/")
    if canary != path and canary in CANARY_FILES:
        add("canary-touched", "critical", "It looked for credentials in the home directory",
            f"~/{canary}", "T1552.001", "T1552.004", "AML.T0055")  # fmt: skip
    elif alert.PolicyName.endswith("-credentials"):
        add("credentials-sought", "critical", "It looked for credentials", path, "T1552.001",
            "T1003.008", "AML.T0055")  # fmt: skip
    elif alert.blocked and (why := looked(asked)):
        add("probed-system", "info", f"It was refused what it can do without: {why}", path)
    elif asked.foreign_proc and alert.blocked:
        add("other-process", "high", "It looked at another process", path, "T1057", "T1055")
    elif writes and _PERSISTENCE.search(path):
        add("persistence", "critical", "It tried to leave something that runs later", path,
            "T1546.004", "T1053.003")  # fmt: skip
    elif writes and path.startswith(("${MODEL}", "${PREFIX}")) and alert.blocked:
        add("tampering", "high", "It tried to change the model or the code that serves it", path,
            "T1565.001", "T1554", "AML.T0018")  # fmt: skip
    elif alert.PolicyName == FOREIGN:
        add("foreign-memory", "high", "It reached for other programs' shared memory", path, "T1005")
    elif writes and alert.blocked and not path.startswith("/proc/self/"):
        add("write-refused", "high", "It tried to write outside of its scratch directory", path,
            "T1074")  # fmt: skip
    elif alert.blocked:
        add("read-refused", "low", "It was refused a file", path, "T1083")


def leaked(
    canaries: Mapping[str, str],
    alerts: Iterable[tuple[Phase, Alert, int]],
    output: bytes,
    scratch: Path,
) -> tuple[Finding, ...]:
    """Canaries whose secret turned up: on a command line, in what it printed or in what it wrote.

    Plainly, in hexadecimal and in Base64; what is enciphered is not found.
    """
    told = {name: _forms(secret) for name, secret in canaries.items()}
    found: dict[tuple[str, str], None] = {}
    texts: list[tuple[str, bytes]] = [("what it printed", output)]
    texts += [("an operation", f"{a.Resource} {a.Data}".encode()) for _, a, _ in alerts]
    own = {scratch / "home" / name for name in CANARY_FILES}
    budget = _MAX_SCANNED
    for file in _files(scratch):
        if budget <= 0 or file in own:
            continue
        content = _head(file, budget)
        budget -= len(content)
        texts.append(("a file that it wrote", content))
    for where, text in texts:
        for name, forms in told.items():
            if any(form in text for form in forms):
                found[name, where] = None
    return tuple(
        Finding(
            rule="canary-leaked",
            severity="critical",
            title=f"The secret in {'$' if name in CANARY_VARIABLES else '~/'}{name} turned up in"
            f" {where}",
            location=f"${name}" if name in CANARY_VARIABLES else f"~/{name}",
            source=SOURCE,
            techniques=("T1552", "T1041", "AML.T0025"),
        )
        for name, where in sorted(found)
    )


def _forms(secret: str) -> list[bytes]:
    raw = secret.encode()
    # Base64 depends on what stands before: of each of the three alignments the inner part
    inner = [base64.b64encode(b"\0" * shift + raw)[4:-4] for shift in range(3)]
    return [raw, raw.hex().encode(), *inner]


def _files(directory: Path) -> Iterator[Path]:
    for parent, _, names in os.walk(directory):
        yield from (Path(parent, name) for name in sorted(names))


def _head(file: Path, budget: int) -> bytes:
    """What a file that a stranger wrote begins with; nothing but a regular file is opened."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return b""
    with os.fdopen(descriptor, "rb") as stream:
        try:
            return stream.read(budget)
        except OSError:  # a directory, a FIFO
            return b""


def unfinished(reason: str, *, rule: str = "observation-incomplete") -> Finding:
    """That something was not observed, so that nobody takes silence for innocence."""
    return Finding(
        rule=rule,
        severity="medium",
        title="Not everything could be observed",
        detail=reason[:500],
        source=SOURCE,
    )

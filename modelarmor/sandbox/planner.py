"""Policy -> plan, for one machine.

Three regions (read, write, execute) say what Landlock can be granted; where a region comes out
exact the kernel holds the line and a trap only tells, elsewhere the supervisor decides. Nothing is
dropped in silence: a rule that cannot be enforced here is marked so, and the sandbox refuses to
start.
"""

from __future__ import annotations

import contextlib
import os
import stat
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import count
from pathlib import Path

from modelarmor.policy import decide
from modelarmor.policy.capabilities import mask
from modelarmor.policy.model import (
    CapabilityRule,
    DnsRule,
    PathRule,
    Policy,
    Posture,
    PresetRule,
    ProtocolRule,
    Rule,
    SyscallRule,
)
from modelarmor.sandbox.network import Egress
from modelarmor.sandbox.plan import Fidelity, Machine, Mode, Plan, PlannedRule, Tier
from modelarmor.sandbox.region import Region, complement
from modelarmor.sandbox.resources import Resources

#: Landlock's rights on files (include/uapi/linux/landlock.h); the ABI that brought the later ones
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
REMOVE = (1 << 4) | (1 << 5)
MAKE = sum(1 << bit for bit in range(6, 13))
REFER = 1 << 13  # ABI 2
TRUNCATE = 1 << 14  # ABI 3
BIND_TCP, CONNECT_TCP = 1 << 0, 1 << 1  # ABI 4
WRITE = WRITE_FILE | REMOVE | MAKE | TRUNCATE

#: so many entries below Block rules are looked at for other names; a start must not take long
_MAX_LOOKS = 5000
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib64", "/opt")


# ---- files and programs ------------------------------------------------------------------------


@dataclass(frozen=True)
class _Stability:
    """Whether nobody in the sandbox can add entries to a directory.

    Root without capabilities still owns the system's directories. For the right to execute they
    count as stable all the same: what that costs is that a file put there meanwhile cannot be run.
    """

    uid: int
    execute: bool

    def __call__(self, directory: str) -> bool:
        try:
            status = Path(directory).stat()
        except OSError:
            return False
        if self.execute and (directory == "/" or directory.startswith(_SYSTEM)):
            return True
        if status.st_uid == self.uid or status.st_mode & 0o002:
            return False
        return not os.access(directory, os.W_OK)


def _is_system(directory: str) -> bool:
    """Whether even root keeps nothing there that is moved about or run."""
    return directory == "/" or f"{directory}/".startswith(("/etc/", "/run/", "/var/", "/usr/"))


def _conditional(rule: PathRule, section: str) -> str:
    """Why the kernel alone cannot hold a rule, or nothing."""
    if rule.from_source:
        return "depends on the calling program"
    if rule.owner_only:
        return "depends on who owns the file"
    if not rule.pts:
        return "depends on a terminal"
    if rule.match == "pattern":
        return "a pattern"
    if rule.match == "execname":
        return "a name in any directory"
    if rule.allowed_args and section == "process":
        return "depends on the arguments"
    if rule.match == "directory" and not rule.recursive:
        return "not recursive"
    return ""


def _fixed_directory(pattern: str) -> str:
    cut = min((pattern.index(c) for c in "*?[" if c in pattern), default=len(pattern))
    return pattern[: pattern.rfind("/", 0, cut) + 1] or "/"


def _permits(rule: PathRule, right: str, posture_blocks: bool) -> bool:
    """Whether an unconditional rule leaves a right; conditional ones are asked for the most."""
    action = rule.outcome.action
    if right == "execute":
        return action == "Allow" or bool(rule.allowed_args) or rule.owner_only
    reads = right == "read"
    if action == "Allow":
        return reads or not rule.read_only or not posture_blocks
    if rule.read_only:
        return reads
    return rule.owner_only


def _add_rules(region: Region, rules: Iterable[PathRule], right: str, blocks: bool) -> None:
    for rule in rules:
        if rule.outcome.action == "Audit":
            continue
        label = _permits(rule, right, blocks)
        section = "process" if right == "execute" else "file"
        if _conditional(rule, section):
            if not label:
                region.exact = False
            elif rule.match == "execname":
                region.force("/")
            elif rule.match == "pattern":
                region.force(_fixed_directory(rule.value))
            elif rule.match == "directory":
                region.force(rule.value)
            else:
                region.forced.add(rule.value)
                region.exact = False
        elif rule.match == "directory":
            region.tree(rule.value, label)
        else:
            region.path(rule.value, label)


def _add_baseline(region: Region, right: str) -> None:
    """What `decide` exempts from the posture.

    Shared objects are granted by their directories: more than the policy permits, unless it grants
    those directories itself.
    """
    for device in decide.BASELINE_DEVICES:
        region.paths.setdefault(device, True)
    devices = decide.BASELINE_DEVICE_DIRECTORIES
    reads = (*decide.BASELINE_LIBRARY_DIRECTORIES, *decide.BASELINE_TREES)
    if right == "read":
        for path in decide.BASELINE_FILES:
            region.paths.setdefault(path, True)
    for directory in (*devices, *(reads if right == "read" else ())):
        key = directory.rstrip("/")
        if not region.holds(key) and key not in region.trees and not Path(key).is_symlink():
            if directory in decide.BASELINE_TREES or directory in devices:
                region.tree(directory, True)
            else:
                region.force(directory)


@cache
def _loaders() -> list[str]:
    """Dynamic loaders: the kernel executes them with every program that names one (PT_INTERP)."""
    found: set[str] = set()
    for pattern in (
        "/lib*/ld-*.so*",
        "lib/*/ld-*.so*",
        "usr/lib*/ld-*.so*",
        "usr/lib/*/ld-*.so*",
    ):
        found.update(os.path.realpath(path) for path in Path("/").glob(pattern.lstrip("/")))
    return sorted(found)


# ---- putting it together -----------------------------------------------------------------------


class _Planner:
    def __init__(
        self,
        policies: Sequence[Policy],
        posture: Posture,
        egress: Egress,
        resources: Resources,
        capabilities: frozenset[str],
        command: Sequence[str],
        machine: Machine,
    ) -> None:
        self.policies = policies
        self.posture = posture
        self.egress = egress
        self.resources = resources
        self.kept = capabilities
        self.command = command
        self.machine = machine
        self.ruled: list[PlannedRule] = []
        self._reals: dict[str, str] = {}
        self._statuses: dict[str, os.stat_result | None] = {}
        self.records: list[tuple[str | int, ...]] = []
        self.process = [rule for policy in policies for rule in policy.process]
        self.file = [rule for policy in policies for rule in policy.file]
        self.presets = [rule for policy in policies for rule in policy.presets]

    def make(self) -> Plan:
        read, write, execute = self._regions()
        self._grants(read, write, execute)
        modes = self._modes(read, write, execute)
        self._rules(read, write, execute)
        self._postures()
        self._baseline()
        self._other_names()
        self._sure_reads(modes)
        note = self._network(modes)
        for trap, mode in modes.items():
            self.records.append(("mode", trap, mode))
        return Plan(
            tuple(self.ruled), modes, self.egress, note, self.resources, tuple(self.records)
        )

    def _restricted(self, rules: Iterable[Rule], posture: str) -> bool:
        return posture == "block" and any(rule.outcome.action == "Allow" for rule in rules)

    def _regions(self) -> tuple[Region, Region, Region]:
        files = self._restricted(self.file, self.posture.file)
        programs = self._restricted(self.process, self.posture.file)
        stable = _Stability(self.machine.uid, False)
        read, write = Region(not files, stable), Region(not files, stable)
        execute = Region(not programs, _Stability(self.machine.uid, True))
        for region, right in ((read, "read"), (write, "write")):
            _add_rules(region, self.file, right, files)
            if files:
                _add_baseline(region, right)
        _add_rules(execute, self.process, "execute", programs)
        self._files_that_must_not_run(execute)
        started = self._command_files()
        if programs:
            for path in (*_loaders(), *started):
                execute.paths.setdefault(path, True)
        if files:
            self._open_for_execution(read, execute, started)
        return read, write, execute

    def _open_for_execution(self, read: Region, execute: Region, started: Sequence[str]) -> None:
        """Landlock wants a file to be readable that is executed; the policy asks only for the one.

        What may run and may not be read is granted to read, and left to the supervisor to withhold.
        """
        for path in started:
            read.paths.setdefault(path, True)
        if execute.default:  # any program; those that a rule names as its source, wherever they lie
            places = [*_SYSTEM, *execute.forced]
            places += sorted({source for rule in self.file for source in rule.from_source})
        else:
            places = [path for path, label in execute.trees.items() if label]
            places += [*execute.forced, *(p for p, label in execute.paths.items() if label)]
        for place in places:
            if not read.holds(place) and not Path(place).is_symlink():
                read.force(place)

    def _files_that_must_not_run(self, execute: Region) -> None:
        """A bare file Block refuses execution too; an Allow inside of it makes that conditional."""
        bare = [
            rule
            for rule in self.file
            if rule.outcome.action == "Block" and not rule.owner_only and not rule.read_only
        ]
        allowed = sorted(rule.value for rule in self.file if rule.outcome.action == "Allow")
        for rule in bare:
            after = bisect_left(allowed, rule.value)  # where what begins with it would be
            inside = after < len(allowed) and allowed[after].startswith(rule.value)
            if _conditional(rule, "file") or inside:
                execute.exact = False
            elif rule.match == "directory":
                execute.tree(rule.value, False)
            else:
                execute.path(rule.value, False)

    def _command_files(self) -> list[str]:
        """The command itself: the posture does not apply to it, since the caller named it."""
        found, path = [], os.path.realpath(self.command[0]) if self.command else ""
        for _ in range(4):
            if not path or not Path(path).is_file():
                break
            found.append(path)
            try:
                with Path(path).open("rb") as file:
                    head = file.read(256)
            except OSError:
                break
            if not head.startswith(b"#!"):
                break
            words = head[2:].split(b"\n")[0].split()
            path = os.path.realpath(os.fsdecode(words[0])) if words else ""
        return found

    def _grants(self, read: Region, write: Region, execute: Region) -> None:
        handled = REFER
        rights: dict[str, int] = {}
        for region, handles, grants in (
            (read, READ_FILE | (READ_DIR if not read.default else 0), READ_FILE | READ_DIR),
            (write, WRITE, WRITE | REFER),
            (execute, EXECUTE, EXECUTE),
        ):
            if region.restricts and (paths := region.grants()) != ["/"]:
                handled |= handles
                for path in paths:
                    rights[path] = rights.get(path, 0) | grants
                if region is read and handles & READ_DIR:
                    # A directory that was cut is listed whole: its names are not what is withheld.
                    for path in region.notes:
                        rights[path] = rights.get(path, 0) | READ_DIR
        if not handled & WRITE_FILE:
            rights["/"] = rights.get("/", 0) | REFER
        abi = self.machine.landlock_abi
        net = 0
        if not self.egress.is_unrestricted and abi >= 4:
            net = BIND_TCP | (CONNECT_TCP if self.egress.tcp_ports() is not None else 0)
            for port in sorted(self.egress.tcp_ports() or ()):
                self.records.append(("port", f"{CONNECT_TCP:x}", port))
        reads_proc = not handled & READ_FILE or any(
            path in ("/", "/proc") for path in rights if rights[path] & READ_FILE
        )
        self.records.append(
            ("landlock", f"{handled:x}", f"{net:x}", f"{self.machine.scoped:x}", int(reads_proc))
        )
        self.records.extend(("grant", f"{right:x}", path) for path, right in rights.items())

    def _modes(self, read: Region, write: Region, execute: Region) -> dict[str, Mode]:
        audits = {rule.outcome.action == "Audit" for rule in self.file}

        def mode(region: Region, watched: bool) -> Mode:
            if region.restricts:
                return "report" if region.exact else "enforce"
            return "report" if watched else "none"

        file_audits = True in audits or self._audited_posture(self.file, self.posture.file)
        presets = {rule.name for rule in self.presets}
        proc = bool(presets & {"protectProc", "protectEnv"})
        modes: dict[str, Mode] = {
            "read": mode(read, file_audits or proc),
            "write": mode(write, file_audits),
            "exec": mode(
                execute,
                any(rule.outcome.action == "Audit" for rule in self.process)
                or self._audited_posture(self.process, self.posture.file)
                or "filelessExec" in presets,
            ),
        }
        if proc and any(
            rule.name in ("protectProc", "protectEnv") and rule.outcome.action != "Audit"
            for rule in self.presets
        ):
            # Landlock already keeps other processes' memory and environment out of reach; what the
            # preset adds (their command lines and the like) is worth telling, not a slower open.
            modes["read"] = modes["read"] if modes["read"] != "none" else "report"
        if self.machine.uid == 0 and modes["write"] != "enforce":
            # Root owns the kernel's settings and the devices; the helper refuses those (notify.c).
            modes["write"] = "enforce" if write.default else "report"
        modes["metadata"] = "enforce" if modes["write"] != "none" else "none"
        return modes

    def _audited_posture(self, rules: Iterable[Rule], posture: str) -> bool:
        return posture == "audit" and any(rule.outcome.action == "Allow" for rule in rules)

    def _rules(self, read: Region, write: Region, execute: Region) -> None:
        for policy in self.policies:
            for section, rules in (("process", policy.process), ("file", policy.file)):
                for rule in rules:
                    regions = (execute,) if section == "process" else (read, write)
                    self._path_rule(policy, rule, section, regions)
            for net in policy.network:
                self._network_rule(policy, net)
            for capability in policy.capabilities:
                self._capability_rule(policy, capability)
            for call in policy.syscalls:
                self._syscall_rule(policy, call)
            for preset in policy.presets:
                self._preset_rule(policy, preset)

    def _add(
        self, policy: Policy, rule: Rule, tier: Tier, fidelity: Fidelity, note: str = ""
    ) -> int:
        self.ruled.append(PlannedRule(policy, rule, tier, fidelity, note))
        return len(self.ruled) - 1

    def _path_rule(
        self, policy: Policy, rule: PathRule, section: str, regions: Sequence[Region]
    ) -> None:
        why = _conditional(rule, section)
        tier: Tier = "supervised"
        fidelity: Fidelity = "exact"
        note = why
        plain = rule.value.rstrip("/")
        real = self._real(plain) if rule.match in ("path", "directory") else ""
        if rule.outcome.action == "Audit":
            note = "reported"
        elif real and real != plain and plain:
            note = f"never matches here: {rule.value} is a link, to {real}"
        elif not why and regions[0].exact and regions[-1].exact:
            tier = "kernel"
        elif not why:
            note = next((n for region in regions for n in region.notes.values()), "")
        if section == "process" and tier == "supervised" and rule.outcome.action == "Block":
            fidelity = "approximate"
            note = (note + "; " if note else "") + "the program is checked again once it runs"
        number = self._add(policy, rule, tier, fidelity, note)
        flags = "o" if rule.owner_only else ""
        flags += "r" if rule.read_only and section == "file" else ""
        flags += "R" if rule.recursive else ""
        flags += "" if rule.pts else "t"
        value = plain + "/" if rule.match == "directory" else rule.value
        self._record(number, section, rule.match, rule.outcome.action, flags, value,
                     rule.from_source, rule.allowed_args)  # fmt: skip

    def _real(self, path: str) -> str:
        """`os.path.realpath`, asked once for what the rules' paths have in common."""
        if not path:
            return "/"
        if path not in self._reals:
            parent, _, name = path.rpartition("/")
            above = self._real(parent).rstrip("/")
            here = f"{above}/{name}"
            status = self._status(here)
            linked = status is not None and stat.S_ISLNK(status.st_mode)
            self._reals[path] = os.path.realpath(here) if linked else here
        return self._reals[path]

    def _status(self, path: str) -> os.stat_result | None:
        """`os.lstat`, asked once; None where nothing is, and so below that without asking."""
        if path not in self._statuses:
            above = self._statuses.get(path.rpartition("/")[0], True)
            try:
                self._statuses[path] = os.lstat(path) if above else None
            except OSError:
                self._statuses[path] = None
        return self._statuses[path]

    def _record(
        self,
        number: int,
        section: str,
        match: str,
        action: str,
        flags: str,
        value: str,
        sources: Sequence[str] = (),
        args: Sequence[str] = (),
    ) -> None:
        self.records.append(
            ("rule", number, section, match, action, flags, value,
             len(sources), *sources, len(args), *args)
        )  # fmt: skip

    def _network_rule(self, policy: Policy, rule: ProtocolRule | DnsRule) -> None:
        action = rule.outcome.action
        if isinstance(rule, DnsRule):
            number = self._add(policy, rule, "supervised", "approximate",
                               "plain DNS to port 53; the query lies in memory")  # fmt: skip
            domain = rule.domain.lower().strip(".")
            self._record(number, "dns", "domain", action, "", domain, rule.from_source)
            return
        number = self._add(policy, rule, "supervised", "exact", "by the registers of socket()")
        flags = "" if rule.pts else "t"
        self._record(number, "network", "name", action, flags, rule.protocol, rule.from_source)

    def _capability_rule(self, policy: Policy, rule: CapabilityRule) -> None:
        fidelity: Fidelity = "exact"
        note = "dropped for the whole workload"
        if rule.outcome.action == "Block":
            self.kept -= {rule.capability}
            if rule.from_source:
                fidelity, note = "approximate", "dropped for every program, not only for the source"
        elif rule.outcome.action == "Allow" and rule.capability not in self.kept:
            note = "the workload does not have it: a sandbox grants no capability"
        number = self._add(policy, rule, "kernel", fidelity, note)
        self._record(number, "capabilities", "name", rule.outcome.action, "", rule.capability,
                     rule.from_source)  # fmt: skip

    def _syscall_rule(self, policy: Policy, rule: SyscallRule) -> None:
        number = self._add(policy, rule, "supervised", "exact" if not rule.path else "approximate",
                           "reported")  # fmt: skip
        for name in rule.syscalls:
            sources: list[str] = []
            for source in rule.from_source:
                form = "path" if source.path else ("tree" if source.recursive else "dir")
                sources += [form, source.path or source.dir]
            self.records.append(
                (
                    "syscall",
                    number,
                    name,
                    rule.path,
                    int(rule.recursive),
                    len(sources) // 2,
                    *sources,
                )
            )

    def _preset_rule(self, policy: Policy, rule: PresetRule) -> None:
        known: dict[str, tuple[Tier, Fidelity, str]] = {
            "filelessExec": ("supervised", "approximate", "checked again once it runs"),
            "protectProc": ("supervised", "approximate", "memory and environment: by the kernel"),
            "protectEnv": ("kernel", "exact", "Landlock keeps processes outside from being read"),
            "anonymousMapExec": ("supervised", "exact", "by the registers of mmap()"),
            "exec": ("none", "exact", "nothing enters a local sandbox from outside"),
        }
        tier, fidelity, note = known.get(rule.name, ("none", "unenforceable", "not a preset"))
        number = self._add(policy, rule, tier, fidelity, note)
        if rule.name in known:
            self.records.append(("preset", number, rule.name, rule.outcome.action))

    def _postures(self) -> None:
        dns = [r for p in self.policies for r in p.network if isinstance(r, DnsRule)]
        protocols = [r for p in self.policies for r in p.network if isinstance(r, ProtocolRule)]
        capabilities = [rule for policy in self.policies for rule in policy.capabilities]
        for section, rules, posture in (
            ("process", self.process, self.posture.file),
            ("file", self.file, self.posture.file),
            ("network", protocols, self.posture.network),
            ("dns", dns, self.posture.network),
            ("capabilities", capabilities, self.posture.capabilities),
        ):
            if any(rule.outcome.action == "Allow" for rule in rules):
                self.records.append(("posture", section, posture))
                if section == "capabilities" and posture == "block":
                    self.kept &= {r.capability for r in capabilities if r.outcome.action == "Allow"}

    def _baseline(self) -> None:
        def base(match: str, flags: str, value: str) -> None:
            self._record(0, "file", match, "Allow", "b" + flags, value)

        for directory in decide.BASELINE_LIBRARY_DIRECTORIES:
            base("pattern", "r", f"{directory}**.so")
            base("pattern", "r", f"{directory}**.so.*")
        for path in decide.BASELINE_FILES:
            base("path", "r", path)
        for tree in decide.BASELINE_TREES:
            base("directory", "rR", tree)
        for pattern in decide.BASELINE_PATTERNS:
            base("pattern", "r", pattern)
        for device in decide.BASELINE_DEVICES:
            base("path", "d", device)
        for directory in decide.BASELINE_DEVICE_DIRECTORIES:
            base("pattern", "d", f"{directory}*")

    def _other_names(self) -> None:
        """Files under Block rules that have several names: the others are no way around it."""
        looks = count()
        for rule in (*self.process, *self.file):
            if rule.outcome.action != "Block" or rule.match not in ("path", "directory"):
                continue
            for path, status in self._regular_files(rule, looks):
                if status.st_nlink > 1:  # its inode says more than its name
                    self.records.append(("named", status.st_dev, status.st_ino, path))

    def _regular_files(
        self, rule: PathRule, looks: Iterator[int]
    ) -> Iterator[tuple[str, os.stat_result]]:
        """The files that a rule names, or that lie where it says; ``looks`` counts entries."""
        top = rule.value.rstrip("/") or "/"
        status = self._status(top)
        if status is None:
            return
        if stat.S_ISREG(status.st_mode):
            yield top, status
        pending = [top] if rule.match == "directory" and stat.S_ISDIR(status.st_mode) else []
        while pending:
            # What is gone, or not to be looked at by this user either, is passed over.
            with contextlib.suppress(OSError), os.scandir(pending.pop()) as entries:
                for entry in entries:
                    if next(looks) >= _MAX_LOOKS:
                        return
                    if rule.recursive and entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
                    elif entry.is_file(follow_symlinks=False):
                        with contextlib.suppress(OSError):
                            yield entry.path, entry.stat(follow_symlinks=False)

    def _sure_reads(self, modes: dict[str, Mode]) -> None:
        """Where the supervisor decides on reading: what any program may read at any time.

        The command opens that itself, under a Landlock domain that grants it no more; the
        supervisor makes only the other opens. Executing needs the right to read, too, so this is
        done only where a program that appears later is not shut out by it: with rules for single
        files that are no programs, and for directories whose programs must not run either.
        """
        moves = self.machine.uid != 0 or modes["write"] == "enforce"  # see region.complement
        named = any(record[0] == "named" for record in self.records)
        listed = self._restricted(self.file, self.posture.file)
        if modes["read"] != "enforce" or listed or named or not moves:
            return
        allowed = [rule.value for rule in self.file if rule.outcome.action == "Allow"]
        holes = {"/proc", "/dev"}
        for rule in self.file:
            reads = rule.read_only and not rule.owner_only
            if _conditional(rule, "file"):
                if rule.match != "path" or os.access(rule.value, os.X_OK):
                    return
            elif rule.outcome.action != "Block" or reads:
                continue
            elif any(value.startswith(rule.value) for value in allowed):
                return  # what may be read and run in there is no tree
            holes.add(rule.value.rstrip("/"))
        stable = _Stability(self.machine.uid, False) if self.machine.uid else _is_system
        sure = complement(holes, stable)
        self.records.extend(("sure", path) for path in sure)

    def _network(self, modes: dict[str, Mode]) -> str:
        rules = [rule for policy in self.policies for rule in policy.network]
        raw = any(r.capability == "net_raw" for p in self.policies for r in p.capabilities)
        limited = not self.egress.is_unrestricted
        sockets = limited or raw or any(isinstance(rule, ProtocolRule) for rule in rules)
        modes["socket"] = "enforce" if sockets else "none"
        modes["endpoint"] = "enforce" if limited else "none"
        modes["dns"] = "enforce" if any(isinstance(rule, DnsRule) for rule in rules) else "none"
        self.records.append(("capabilities", f"{mask(self.kept):x}"))
        if not limited:
            return "not limited"
        if self.egress.is_none:
            self.records.append(("egress", "none"))
            return "none: internet sockets do not exist (exact)"
        self.records.append(("egress", "limited"))
        for rule in self.egress.rules:
            for cidr in ("0.0.0.0/0", "::/0") if rule.cidr is None else (str(rule.cidr),):
                address, _, prefix = cidr.partition("/")
                holes: list[str | int] = []
                for hole in rule.except_cidrs:
                    holes += [str(hole.network_address), hole.prefixlen]
                anything: Sequence[tuple[str, int, int]] = (("any", 0, 65535),)
                for reach in rule.ports or anything:
                    self.records.append(
                        ("endpoint", address, prefix, *reach, len(holes) // 2, *holes)
                    )
        if not self.machine.acts_on_sockets:
            return "limited: addresses are checked, but could be changed meanwhile (approximate)"
        ports = "TCP ports by Landlock, " if self.machine.landlock_abi >= 4 else ""
        return f"limited: {ports}addresses by the supervisor, who makes the connection (exact)"


def make_plan(
    policies: Sequence[Policy],
    posture: Posture,
    *,
    egress: Egress,
    resources: Resources,
    capabilities: frozenset[str],
    command: Sequence[str],
    machine: Machine,
) -> Plan:
    """Compile policies for one machine.

    Args:
        policies: those that apply to the workload; selectors are not consulted.
        posture: what happens to what no rule matches, where a class has Allow rules.
        egress: where the workload may connect to.
        resources: limits; control groups are the process's affair.
        capabilities: to keep, by name without ``cap_``; normally none.
        command: the program (absolute path) and its arguments.
        machine: what this machine offers.

    Raises:
        ValueError: an unknown capability is to be kept.
    """
    return _Planner(policies, posture, egress, resources, capabilities, command, machine).make()

"""A confined process: what is enforced, what is reported, how it ends, and that nothing is left."""

from __future__ import annotations

import importlib
import os
import platform
import re
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from modelarmor.policy.model import Posture
from modelarmor.sandbox import Egress, Resources, Sandbox, Workload, probe
from modelarmor.sandbox.planner import make_plan
from modelarmor.sandbox.process import CannotConfine
from tests.sandbox.support import confined, policy

PYTHON = os.path.realpath(sys.executable)


def python(code: str) -> list[str]:
    return [PYTHON, "-c", textwrap.dedent(code)]


def test_a_blocked_file_is_refused_and_reported_in_kubearmors_words(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("content")
    rules = policy(f"  file: {{matchPaths: [{{path: {secret}}}]}}\n  action: Block\n")
    outcome = confined(["cat", str(secret)], rules)
    assert outcome.status == 1
    assert "Permission denied" in outcome.output
    assert "content" not in outcome.output
    [alert] = outcome.alerts
    assert alert.PolicyName == "test-policy"
    assert (alert.Action, alert.Result) == ("Block", "Permission denied")
    assert (alert.Severity, alert.Message, alert.Tags) == ("7", "a test's rule", "TAG")
    assert (alert.Operation, alert.Resource) == ("File", str(secret))
    assert alert.Source.endswith(f"cat {secret}")
    assert alert.ProcessName.endswith("/cat")
    assert alert.Enforcer == "ModelArmor"


def test_a_blocked_program_does_not_run() -> None:
    true = os.path.realpath("/bin/true")
    rules = policy(f"  process: {{matchPaths: [{{path: {true}}}]}}\n  action: Block\n")
    outcome = confined(["sh", "-c", f"{true} && echo ran"], rules)
    assert "ran" not in outcome.output
    assert outcome.resources("Process") == [true]


def test_more_executions_than_can_be_checked_again_are_refused(tmp_path: Path) -> None:
    """Each that failed waits to be looked at; one that is not remembered could be swapped."""
    noexec = tmp_path / "noexec"
    noexec.write_text("neither a program nor a script\n")
    noexec.chmod(0o755)
    rules = policy("  process: {matchPaths: [{execname: nmap}]}\n  action: Block\n")
    outcome = confined(
        python(f"""
            import os, signal, subprocess
            children = []
            for _ in range(300):
                read, write = os.pipe()
                children.append(os.fork())
                if not children[-1]:
                    try:
                        os.execv("{noexec}", ["noexec"])
                    except OSError as error:
                        os.write(write, str(error.errno).encode())
                    signal.pause()
                os.close(write)
                said = os.read(read, 9).decode()
                os.close(read)
            print("last:", os.strerror(int(said)))
            for child in children:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
            while True:  # until that they are gone was noticed
                try:
                    print(subprocess.run(["echo", "runs"], capture_output=True).stdout)
                    break
                except BlockingIOError:
                    pass
            """),
        rules,
        cwd=tmp_path,
    )
    assert outcome.status == 0, outcome.output
    assert outcome.output.splitlines() == [
        "last: Resource temporarily unavailable",
        "b'runs\\n'",
    ]


@pytest.fixture
def compiled(tmp_path: Path) -> Callable[..., Path]:
    """Compiles a C program into the test's directory."""
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler")

    def compile_it(name: str, source: str, *options: str) -> Path:
        subprocess.run(
            ["cc", "-O1", "-w", "-x", "c", "-o", name, "-", *options],
            cwd=tmp_path, input=source, text=True, check=True,
        )  # fmt: skip
        return tmp_path / name

    return compile_it


@pytest.mark.parametrize("noise", [[], ["noise"]], ids=["itself", "with a second thread"])
def test_a_program_that_is_swapped_while_it_is_executed_is_ended(
    tmp_path: Path, compiled: Callable[..., Path], noise: list[str]
) -> None:
    swap = compiled("swap", (Path(__file__).parent / "swap.c").read_text())
    blocked = tmp_path / "blocked-sleep"
    shutil.copy("/bin/sleep", blocked)
    rules = policy(
        f"  process: {{matchPatterns: [{{pattern: {tmp_path}/blocked-*}}]}}\n  action: Block\n"
    )
    command = [str(swap), "/bin/false" if noise else str(swap), str(blocked), "100", *noise]
    outcome = confined(command, rules, cwd=tmp_path)
    counted = re.search(r"ran (\d+), ended (\d+), own (\d+), refused (\d+)", outcome.output)
    assert counted, outcome.output
    assert counted[1] == "0"
    assert any(int(number) for number in counted.groups()[1:]), "it was tried"


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the loader is written for x86_64")
@pytest.mark.parametrize("slashes", [1, 300])
def test_a_blocked_program_is_no_other_programs_loader(
    tmp_path: Path, compiled: Callable[..., Path], slashes: int
) -> None:
    ends = 'void _start(void) { __asm__ volatile("syscall" : : "a"(60), "D"(0)); }'  # exit(0)
    blocked = compiled("blocked-loader", ends, "-static", "-nostdlib")
    main = "int main(void) { return 1; }"
    named = "/" * slashes + str(blocked).lstrip("/")
    program = compiled("program", main, f"-Wl,--dynamic-linker={named}")
    assert confined([str(program)]).status == 0, "the loader runs in its place"
    rules = policy(
        f"  process: {{matchPatterns: [{{pattern: {tmp_path}/blocked-*}}]}}\n  action: Block\n"
    )
    outcome = confined(["sh", "-c", f"{program} && echo ran"], rules)
    assert "Permission denied" in outcome.output
    assert outcome.resources("Process") == [str(blocked)]


def test_an_allow_list_refuses_the_rest_by_the_default_posture(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/file").write_text("inside")
    (tmp_path / "out").write_text("outside")
    rules = policy(
        f"  file: {{matchDirectories: [{{dir: {tmp_path}/in/, recursive: true}}]}}\n"
        "  action: Allow\n"
    )
    outcome = confined(["cat", f"{tmp_path}/in/file", f"{tmp_path}/out"], rules)
    assert "inside" in outcome.output
    assert "outside" not in outcome.output
    assert [alert.PolicyName for alert in outcome.alerts if "out" in alert.Resource] == [
        "DefaultPosture"
    ]


def test_read_only_covers_content_names_and_metadata(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("kept")
    os.setxattr(tmp_path / "f", "user.x", b"1") if hasattr(os, "setxattr") else None
    before = (tmp_path / "f").stat()
    rules = policy(
        f"  file: {{matchDirectories: [{{dir: {tmp_path}/, recursive: true, readOnly: true}}]}}\n"
        "  action: Block\n"
    )
    outcome = confined(
        python(f"""
        import os
        f = {str(tmp_path / "f")!r}
        d = os.path.dirname(f)
        fd = os.open(f, os.O_RDONLY)
        attempts = [
            lambda: open(f, "w"), lambda: open(f, "a"), lambda: os.truncate(f, 0),
            lambda: os.unlink(f), lambda: os.rename(f, d + "/g"), lambda: os.link(f, "/tmp/al-x"),
            lambda: os.mkdir(d + "/n"), lambda: os.symlink("/", d + "/s"),
            lambda: os.mkfifo(d + "/p"), lambda: os.chmod(f, 0o777), lambda: os.fchmod(fd, 0o777),
            lambda: os.chown(f, 1, 1), lambda: os.fchown(fd, 1, 1), lambda: os.utime(f, (1, 1)),
            lambda: os.utime(fd, (1, 1)), lambda: os.setxattr(f, "user.x", b"2"),
            lambda: os.setxattr(fd, "user.x", b"2"), lambda: os.removexattr(f, "user.x"),
        ]
        for n, attempt in enumerate(attempts):
            try:
                attempt()
                print("passed", n)
            except PermissionError:
                print("refused")
        print(open(f).read())
        """),
        rules,
    )
    assert outcome.output.count("refused") == 18, outcome.output
    assert "kept" in outcome.output
    after = (tmp_path / "f").stat()
    assert (before.st_mode, before.st_uid, before.st_mtime_ns, before.st_nlink) == (
        after.st_mode, after.st_uid, after.st_mtime_ns, after.st_nlink,
    )  # fmt: skip
    assert len(outcome.resources("File")) >= 18


def test_what_is_not_read_only_can_be_changed_through_the_supervisor(tmp_path: Path) -> None:
    ruled = tmp_path / "ro"
    ruled.mkdir()
    rules = policy(
        f"  file: {{matchDirectories: [{{dir: {ruled}/, recursive: true, readOnly: true}}]}}\n"
        "  action: Block\n"
    )
    outcome = confined(
        python(f"""
        import os
        os.chdir({str(tmp_path)!r})
        os.umask(0o027)
        open("f", "w").write("x")
        assert os.stat("f").st_mode & 0o777 == 0o640, oct(os.stat("f").st_mode)
        os.chmod("f", 0o600); assert os.stat("f").st_mode & 0o777 == 0o600
        os.utime("f", (1, 2)); assert os.stat("f").st_mtime == 2
        os.setxattr("f", "user.y", b"z"); assert os.getxattr("f", "user.y") == b"z"
        os.rename("f", "g"); os.link("g", "h"); os.symlink("g", "s"); assert open("s").read() == "x"
        os.mkdir("d", 0o777); assert os.stat("d").st_mode & 0o777 == 0o750
        os.rmdir("d"); os.unlink("h"); os.truncate("g", 0); assert os.stat("g").st_size == 0
        os.mkfifo("p")
        print("fine")
        """),
        rules,
    )
    assert outcome.output == "fine\n"
    assert outcome.alerts == []


def test_source_owner_and_audit_rules(tmp_path: Path) -> None:
    cat, head = os.path.realpath("/usr/bin/cat"), os.path.realpath("/usr/bin/head")
    (tmp_path / "f").write_text("text")
    rules = policy(
        f"  file:\n    matchPaths:\n"
        f"    - {{path: {tmp_path}/f, fromSource: [{{path: {cat}}}]}}\n"
        f"    - {{path: {tmp_path}/f, fromSource: [{{path: {head}}}], action: Audit}}\n"
        "  action: Block\n"
    )
    outcome = confined(["sh", "-c", f"{cat} {tmp_path}/f; {head} {tmp_path}/f"], rules)
    assert outcome.output.count("text") == 1
    assert [(a.Action, a.Result) for a in outcome.alerts] == [
        ("Block", "Permission denied"),
        ("Audit", "Passed"),
    ]


def test_a_socket_that_was_given_may_listen_again_and_no_other(tmp_path: Path) -> None:
    code = """
import socket, sys
given, bound = (socket.socket(fileno=int(number)) for number in sys.argv[1:])
given.listen(7)
print("given")
bound.listen(7)
"""
    with socket.create_server(("127.0.0.1", 0)) as given, socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        numbers = [given.fileno(), bound.fileno()]
        result = confined(
            [sys.executable, "-c", code, *map(str, numbers)],
            network=Egress.none(),
            pass_fds=numbers,
        )
        assert "given" in result.output
        assert "PermissionError" in result.output
        assert result.resources("Network") == ["listen"]
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(bound.getsockname(), timeout=5)


def test_without_egress_there_are_no_internet_sockets() -> None:
    outcome = confined(
        python("""
        import socket
        for family in (socket.AF_INET, socket.AF_INET6):
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                try:
                    socket.socket(family, kind)
                    print("passed")
                except PermissionError:
                    print("refused")
        a, b = socket.socketpair()
        a.send(b"local"); print(b.recv(9).decode())
        """),
        network=Egress.none(),
    )
    assert outcome.output.split() == ["refused"] * 4 + ["local"]
    assert [alert.PolicyName for alert in outcome.alerts] == ["NetworkPolicy"] * 4


@pytest.mark.parametrize(
    ("command", "status"),
    [
        (["sh", "-c", "exit 7"], 7),
        (["sh", "-c", "kill -9 $$"], -signal.SIGKILL),
        (["sh", "-c", "kill -15 $$"], -signal.SIGTERM),
        (["/nonexistent/program"], 127),
        (["/etc/passwd"], 126),
    ],
)
def test_the_exit_status_is_the_commands(command: list[str], status: int) -> None:
    assert confined(command).status == status


def test_signals_reach_the_command() -> None:
    process = Sandbox.start(
        Workload(
            "test", ["sh", "-c", "trap 'exit 5' TERM; echo up; while :; do sleep 0.01; done"], []
        ),
        stdout=subprocess.PIPE,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        process.terminate()
        assert process.wait(60) == 5


def _alive(marker: str) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if marker.encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
    return [pid for pid in found if pid != os.getpid()]


def _gone(marker: str) -> bool:
    deadline = time.monotonic() + 20
    while _alive(marker):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


_STARTER = """
import subprocess, sys
from modelarmor.sandbox import Sandbox, Workload
code = '''import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(3600)
    os._exit(0)
print("up", flush=True)
time.sleep(3600)
'''
workload = Workload("t", [sys.executable, "-c", code, sys.argv[1]], [])
p = Sandbox.start(workload, stdout=subprocess.PIPE)
p.stdout.readline()
children = open(f"/proc/{p.pid}/task/{p.pid}/children").read().split()
print(p.pid, children[0], p.child_pid, flush=True)
p.wait()
"""


@pytest.mark.parametrize("victim", ["starter", "guard", "supervisor", "command"])
def test_nothing_outlives_the_sandbox_whoever_is_killed(victim: str) -> None:
    marker = f"marker-{os.getpid()}-{victim}"
    with subprocess.Popen(
        [sys.executable, "-c", _STARTER, marker], stdout=subprocess.PIPE, text=True
    ) as starter:
        assert starter.stdout is not None
        guard, supervisor, command = map(int, starter.stdout.readline().split())
        pids = {
            "starter": starter.pid,
            "guard": guard,
            "supervisor": supervisor,
            "command": command,
        }
        assert _alive(marker)
        os.kill(pids[victim], signal.SIGKILL)
        try:
            starter.wait(60)
        finally:
            starter.kill()
    assert _gone(marker), _alive(marker)


def test_a_daemon_ends_with_the_command() -> None:
    marker = f"marker-{os.getpid()}-daemon"
    outcome = confined(["sh", "-c", f"setsid sh -c 'sleep 3600; : {marker}' & echo started"])
    assert outcome.output == "started\n"
    assert _gone(marker)


def test_reaching_the_memory_limit_ends_the_process_with_an_alert() -> None:
    outcome = confined(
        python("x = bytearray(600 << 20); print(len(x))"),
        resources=Resources(memory=200 << 20),
    )
    assert outcome.status != 0
    assert "memory" in outcome.resources("Resource")


def test_reaching_the_process_limit_is_an_alert() -> None:
    outcome = confined(
        python("""
        import os, time
        for _ in range(60):
            try:
                if os.fork() == 0:
                    time.sleep(1)
                    os._exit(0)
            except OSError:
                break
        time.sleep(1)
        """),
        resources=Resources(processes=20),
    )
    assert "processes" in outcome.resources("Resource")


def test_a_flood_of_refusals_is_counted_to_the_last(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x")
    rules = policy(f"  file: {{matchPaths: [{{path: {secret}}}]}}\n  action: Block\n")
    process = Sandbox.start(
        Workload(
            "test",
            python(f"""
            import os
            for _ in range(20000):
                try:
                    os.open({str(secret)!r}, os.O_RDONLY)
                except PermissionError:
                    pass
            """),
            rules,
        )
    )
    with process:
        assert process.wait(120) == 0
    assert process.recorder.counts.total == 20000


def test_names_that_are_not_text_arrive_whole(tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b'/new\nline \xff "quote" \xc3\xa9'
    with open(name, "w"):  # noqa: PTH123  bytes
        pass
    rules = policy(f"  file: {{matchDirectories: [{{dir: {tmp_path}/}}]}}\n  action: Block\n")
    outcome = confined(["cat", name.decode(errors="surrogateescape")], rules)
    assert outcome.resources("File") == [f'{tmp_path}/new\nline \\xff "quote" é']


def test_a_rule_that_cannot_be_enforced_is_refused_before_anything_runs(tmp_path: Path) -> None:
    [parsed] = policy("  presets: [{name: filelessExec, action: Block}]\n")
    rules = [replace(parsed, presets=(replace(parsed.presets[0], name="misspelt"),))]
    with pytest.raises(CannotConfine, match="cannot be enforced"):
        confined(["touch", str(tmp_path / "ran")], rules)
    assert not (tmp_path / "ran").exists()


def test_a_sandbox_in_a_sandbox_says_why_it_cannot() -> None:
    outcome = confined([sys.executable, "-m", "modelarmor", "doctor"], cwd=Path.cwd())
    assert outcome.status == 1
    assert "MISSING" in outcome.output


@pytest.fixture(params=[3, 4, 5])
def older_landlock(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Plan as for a kernel whose Landlock knows less; what it lacks is then really not used."""
    report = replace(probe(), landlock_abi=request.param)
    module = importlib.import_module("modelarmor.sandbox.probe")
    monkeypatch.setattr(module, "probe", lambda: report)
    return int(request.param)


def test_what_an_older_landlock_lacks_is_supervised(older_landlock: int) -> None:
    with subprocess.Popen(["sleep", "600"]) as outside, socket.socket(socket.AF_UNIX) as listener:
        name = f"\0modelarmor-test-{os.getpid()}-{older_landlock}"
        listener.bind(name)
        listener.listen()
        try:
            outcome = confined(
                python(f"""
                import os, signal, socket, subprocess
                attempts = [
                    lambda: os.kill({outside.pid}, 0), lambda: os.kill({os.getpid()}, 0),
                    lambda: os.kill(-1, 0), lambda: os.kill(os.getppid(), signal.SIGKILL),
                    lambda: os.killpg({os.getpgid(0)}, 0),
                    lambda: signal.pidfd_send_signal(os.pidfd_open({outside.pid}), 0),
                    lambda: socket.socket(socket.AF_UNIX).connect({name!r}),
                    lambda: socket.socket(),
                ]
                for n, attempt in enumerate(attempts):
                    try:
                        attempt()
                        print("passed", n)
                    except PermissionError:
                        print("refused")
                child = subprocess.Popen(["sleep", "600"])
                child.kill()
                print(child.wait())
                """),
                network=Egress.none(),
            )
            assert outside.poll() is None
        finally:
            outside.kill()
    assert outcome.output.split() == ["refused"] * 8 + ["-9"], outcome.output
    assert len(outcome.alerts) == 8


def test_a_descriptor_signals_nobody_outside_of_an_older_landlock(older_landlock: int) -> None:
    with subprocess.Popen(["sleep", "600"]) as outside:
        try:
            outcome = confined(
                python(f"""
                import fcntl, os, signal, struct
                reader, writer = os.pipe()
                pid = struct.pack("i", {outside.pid})
                for attempt in (
                    lambda: fcntl.fcntl(reader, fcntl.F_SETOWN, {outside.pid}),
                    lambda: fcntl.fcntl(reader, 15, struct.pack("i", 1) + pid),  # F_SETOWN_EX
                    lambda: fcntl.ioctl(reader, 0x8901, pid),  # FIOSETOWN
                    lambda: fcntl.ioctl(reader, 0x8902, pid),  # SIOCSPGRP
                ):
                    try:
                        attempt()
                        print("passed")
                    except PermissionError:
                        print("refused")
                fcntl.fcntl(reader, 10, signal.SIGKILL)  # F_SETSIG
                fcntl.fcntl(reader, fcntl.F_SETFL, os.O_ASYNC)
                os.write(writer, b"x")
                """)
            )
            assert outside.poll() is None
        finally:
            outside.kill()
    assert outcome.output.split() == ["refused"] * 4, outcome.output


def test_a_fork_bomb_and_a_daemon_end_without_scoped_signals(older_landlock: int) -> None:
    marker = f"marker-{os.getpid()}-{older_landlock}"
    outcome = confined(
        python(f"""
        import os, time
        marker, main = {marker!r}, os.getpid()
        for _ in range(5):
            os.fork()
        if os.getpid() != main:
            if os.getpid() % 2:
                os.setsid()
            time.sleep(3600)
        print("x", flush=True)
        """),
        resources=Resources(processes=500),
        timeout=60,
    )
    assert "x" in outcome.output
    assert _gone(marker), _alive(marker)


def test_beyond_the_limit_alerts_are_summed_and_without_one_each_is_listed(tmp_path: Path) -> None:
    rules = policy(f"  file: {{matchPatterns: [{{pattern: {tmp_path}/n*}}]}}\n  action: Block\n")
    code = python(f"""
        for i in range(20_000):
            try:
                open("{tmp_path}/n%d" % i)
            except PermissionError:
                pass
        """)
    few = confined(code, rules, alerts_per_second=10)
    assert 20 <= len(few.resources("File")) < 20_000
    every = confined(code, rules, alerts_per_second=None)
    assert every.resources("File") == [f"{tmp_path}/n{i}" for i in range(20_000)]


def test_a_limit_of_no_alerts_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="alerts_per_second is 0"):
        confined(["true"], alerts_per_second=0)


_SECRET = Path("/etc/shadow")
_NOT_PYTHON = f"""
  file:
    matchPaths: [{{path: {_SECRET}, fromSource: [{{path: {PYTHON}}}]}}]
  action: Block
"""


@pytest.mark.skipif(not os.access(_SECRET, os.R_OK), reason="only root can read it anyway")
def test_a_rule_for_one_file_leaves_the_other_files_to_the_command(tmp_path: Path) -> None:
    """It opens them itself, in a Landlock domain that grants it all but that file."""
    code = f"""
        import os, subprocess, sys
        from pathlib import Path
        new = Path({str(tmp_path)!r}) / "new"
        new.mkdir()
        (new / "program").write_text("#!/bin/sh\\necho ran $(cat {_SECRET} | head -c 4)\\n")
        (new / "program").chmod(0o755)
        (new / "program").rename(new.parent / "moved")
        Path("/dev/shm/modelarmor-test").write_text("shared")
        os.replace("/dev/shm/modelarmor-test", "/dev/shm/modelarmor-test-2")
        print(Path("/dev/shm/modelarmor-test-2").read_text())
        Path("/dev/shm/modelarmor-test-2").unlink()
        print(len(os.listdir("/")) > 3, "shadow" in os.listdir("/etc"), os.listdir(new.parent))
        print(open("/proc/self/comm").read().strip() != "", open("/dev/null").read() == "")
        print(subprocess.run([new.parent / "moved"], capture_output=True, text=True).stdout)
        for way in ("{_SECRET}", "/proc/self/root{_SECRET}", "/etc/../{_SECRET}"):
            try:
                print(open(way).read())
            except PermissionError:
                print("refused")
        """
    with Sandbox.start(
        Workload("test", python(code), policy(_NOT_PYTHON), cwd=tmp_path),
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        output = process.stdout.read().decode()
        assert process.wait(60) == 0
        modes, records = process.plan.modes, process.plan.records
    sure = [str(path) for record, path, *_ in records if record == "sure"]
    assert modes["read"] == "enforce"
    assert "/usr" in sure
    assert not [path for path in sure if _SECRET.is_relative_to(path)]
    start = _SECRET.read_text()[:4]
    assert output.splitlines() == [
        "shared", "True True ['moved', 'new']", "True True", f"ran {start}", "",
        "refused", "refused", "refused",
    ]  # fmt: skip


@pytest.mark.skipif(not os.access(_SECRET, os.R_OK), reason="only root can read it anyway")
def test_a_path_that_changes_while_it_is_opened_leads_to_nothing_that_is_ruled() -> None:
    outcome = confined(
        python(f"""
        import ctypes, os, threading
        libc = ctypes.CDLL(None)
        paths = [b"/etc/passwd", b"{_SECRET}"]
        text = ctypes.create_string_buffer(b"/etc/passwd")
        over = False
        def swap():
            while not over:
                for path in paths:
                    ctypes.memmove(text, path + b"\\0", len(path) + 1)
        threading.Thread(target=swap).start()
        inode = 0
        seen = [0, 0, 0]
        ruled = os.stat(paths[1]).st_ino
        for _ in range(20_000):
            fd = libc.open(text, os.O_RDONLY)
            if fd < 0:
                seen[0] += 1
                continue
            seen[2 if os.fstat(fd).st_ino == ruled else 1] += 1
            os.close(fd)
        over = True
        print("refused, opened, ruled:", seen[0] > 0, seen[1] > 0, seen[2])
        """),
        policy(_NOT_PYTHON),
    )
    assert outcome.output == "refused, opened, ruled: True True 0\n"


def test_rules_that_the_command_could_be_shut_out_by_leave_every_open_to_the_supervisor() -> None:
    def sure(rules: str) -> list[object]:
        plan = make_plan(
            policy(f"  file: {rules}\n  action: Block\n"), Posture(), egress=Egress.unrestricted(),
            resources=Resources(), capabilities=frozenset(), command=["/bin/true"],
            machine=replace(probe().machine, uid=0),
        )  # fmt: skip
        assert plan.modes["read"] == "enforce"
        return [path for record, path, *_ in plan.records if record == "sure"]

    source = f"fromSource: [{{path: {PYTHON}}}]"
    assert sure(f"{{matchPaths: [{{path: /etc/shadow, {source}}}]}}")
    # programs that it may run, and may not be able to read then
    assert not sure(f"{{matchPaths: [{{path: {PYTHON}, {source}}}]}}")
    assert not sure(f"{{matchDirectories: [{{dir: /usr/lib/, recursive: true, {source}}}]}}")
    assert not sure("{matchPatterns: [{pattern: /etc/**.key}]}")
    # where files are put to be moved on
    assert not sure(f"{{matchPaths: [{{path: /home/u/secret, {source}}}]}}")


def test_closing_does_not_mind_what_was_written_and_never_read() -> None:
    process = Sandbox.start(Workload("test", ["true"], [], cwd=Path("/")), stdin=subprocess.PIPE)
    process.wait(30)
    assert process.stdin is not None
    process.stdin.write(b"still in the buffer")
    process.close()
    assert process.stdin.closed


def test_what_the_loader_is_told_is_the_workloads_business_alone(tmp_path: Path) -> None:
    """The helper is not confined yet when its loader looks for libraries in the workspace."""
    source = tmp_path / "library.c"
    source.write_text(
        "#include <fcntl.h>\n#include <unistd.h>\n"
        "__attribute__((constructor)) static void loaded(void) {\n"
        f'    int fd = open("{tmp_path}/outside", O_CREAT | O_WRONLY, 0600);\n'
        "    if (fd >= 0) close(fd);\n"
        "}\n"
    )
    work = tmp_path / "work"
    work.mkdir()
    compiler = os.environ.get("CC", "cc")
    library = work / "library.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True)
    rules = policy(
        "  file:\n    matchDirectories:\n"
        f"    - {{dir: {tmp_path}/, recursive: true, readOnly: true}}\n  action: Block\n"
    )
    env = {"PATH": "/usr/bin:/bin", "LD_PRELOAD": "./library.so", "LD_LIBRARY_PATH": ":"}
    outcome = confined(["sh", "-c", "echo $LD_PRELOAD $LD_LIBRARY_PATH"], rules, cwd=work, env=env)
    assert outcome.output == "./library.so :\n"
    assert not (tmp_path / "outside").exists()
    assert f"{tmp_path}/outside" in {alert.Resource for alert in outcome.alerts}

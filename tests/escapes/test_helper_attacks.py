"""The helper is a program that a hostile one talks to: floods, bad memory, numbers and names."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from modelarmor.alerts import Alert, Recorder
from modelarmor.policy.document import load
from modelarmor.sandbox.network import Egress
from modelarmor.sandbox.process import Sandbox, Workload

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox is Linux's")

_PRELUDE = """
import ctypes, errno, mmap, os, signal, socket, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
SECRET, VAULT, WORK = sys.argv[1:4]
def code(number, *args):
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(number), *args)
    return 0 if result >= 0 else ctypes.get_errno()
def still_confined():
    'The sandbox still answers: no to the secret, yes to what is permitted.'
    try: open(SECRET); return False
    except PermissionError: pass
    with open(WORK + '/fine', 'w') as file: file.write('x')
    return open(WORK + '/fine').read() == 'x'
"""

Run = Callable[..., tuple[str, Recorder]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs code in a sandbox whose helper answers for every open; returns what it printed."""
    for folder in ("vault", "work"):
        (tmp_path / folder).mkdir()
    (tmp_path / "secret").write_text("secret")
    policy = {
        "apiVersion": "security.kubearmor.com/v1", "kind": "KubeArmorPolicy",
        "metadata": {"name": "attack", "namespace": "default"},
        "spec": {"selector": {"matchLabels": {"a": "b"}}, "action": "Block", "file": {
            "matchPaths": [{"path": f"{tmp_path}/secret"}],
            "matchDirectories": [{"dir": f"{tmp_path}/vault/", "recursive": True}],
            "matchPatterns": [{"pattern": f"{tmp_path}/**/*.key"}],
        }},
    }  # fmt: skip

    def start(
        code: str,
        *,
        listener: Callable[[Alert], None] | None = None,
        capacity: int = 10_000,
        timeout: float = 60,
        confined: bool = True,
        capabilities: frozenset[str] = frozenset(),
    ) -> tuple[str, Recorder]:
        recorder = Recorder("attack", capacity)
        command = [os.path.realpath(sys.executable), "-I", "-S", "-c", _PRELUDE + code,
                   f"{tmp_path}/secret", f"{tmp_path}/vault", f"{tmp_path}/work"]  # fmt: skip
        if not confined:
            shutil.rmtree(tmp_path / "work")
            (tmp_path / "work").mkdir()
            done = subprocess.run(command, capture_output=True, cwd=tmp_path / "work", check=True)
            return done.stdout.decode(), recorder
        workload = Workload(
            name="attack", command=command, policies=load(json.dumps(policy)),
            network=Egress.none(), capabilities=capabilities,
            cwd=tmp_path / "work", env={"PATH": "/usr/bin:/bin", "TMPDIR": str(tmp_path / "work")},
        )  # fmt: skip
        out = tmp_path / "out"
        with out.open("wb") as file:
            process = Sandbox.start(
                workload, recorder=recorder, alerts=listener,
                stdin=subprocess.DEVNULL, stdout=file, stderr=file,
            )  # fmt: skip
            try:
                status = process.wait(timeout)
            finally:
                process.close()
        text = out.read_text(errors="replace")
        assert status == 0, (status, text[-2000:])
        return text, recorder

    return start


def test_flood_is_counted_to_the_last(run: Run) -> None:
    text, recorder = run("""
for _ in range(100_000):
    try: open(SECRET); print('opened')
    except PermissionError: pass
print(still_confined())
""")
    assert text == "True\n"
    assert recorder.counts.total == 100_001
    assert recorder.counts.by_policy["attack"] == 100_001


def test_flood_from_many_processes_is_counted_to_the_last(run: Run) -> None:
    text, recorder = run("""
for _ in range(16):
    if os.fork() == 0:
        for _ in range(1000):
            try: os.close(os.open(SECRET, os.O_RDONLY))
            except PermissionError: pass
        os._exit(0)
print(sum(os.wait()[1] for _ in range(16)))
""")
    assert text == "0\n"
    assert recorder.counts.total == 16_000


def test_nobody_reading_alerts_stops_nothing(run: Run) -> None:
    """The pipe fills up; the workload goes on, and what was not listed is counted."""
    held = threading.Event()
    start = time.monotonic()

    def listener(_: Alert) -> None:
        held.wait(3)
        held.set()

    text, recorder = run("""
for i in range(30_000):
    try: os.open(VAULT + '/' + 'n' * 200 + str(i % 50), os.O_RDONLY)
    except PermissionError: pass
print(still_confined())
""", listener=listener, capacity=100_000)  # fmt: skip
    assert text == "True\n"
    assert time.monotonic() - start < 45
    assert recorder.counts.total == 30_001


STRINGS = """
page = mmap.PAGESIZE
area = mmap.mmap(-1, 2 * page)
base = ctypes.addressof(ctypes.c_char.from_buffer(area))
libc.mprotect(ctypes.c_void_p(base + page), page, 0)
area[page - 16:page] = b'e' * 16
bad = {
    'null': None, 'one': 1, 'kernel': -4096, 'top': 2**63 - 1, 'no end': base + page - 16,
    'next page': base + page, 'last byte': base + page - 1, 'noncanonical': 1 << 60,
}
# Names that are nobody's: whatever a call does with them, it does in the workspace.
long = {
    'PATH_MAX - 1': b'a/' * 2047 + b'a', 'PATH_MAX': b'a' * 4096, '5000': b'a' * 5000,
    'NAME_MAX': b'n' * 255, 'NAME_MAX + 1': b'n' * 256, '1 MB': b'x/' * 500_000, 'empty': b'',
    'dots': b'missing/' + b'../' * 1300,
}
def argument(value):
    return ctypes.c_char_p(value) if isinstance(value, bytes) else ctypes.c_void_p(value)
"""


def test_bad_strings_are_answered_as_the_kernel_would(run: Run) -> None:
    calls = {
        "open": "2, A, 0, 0", "openat": "257, -100, A, 0, 0", "creat": "85, A, 0o700",
        "truncate": "76, A, 0", "mkdir": "83, A, 0", "unlink": "87, A", "rmdir": "84, A",
        "rename": "82, A, A", "link": "86, A, A", "symlink": "88, A, A", "chmod": "90, A, 0",
        "chown": "92, A, -1, -1", "utimes": "235, A, None", "mknod": "133, A, 0o10600, 0",
        "setxattr": "188, A, b'user.x', b'1', 1, 0", "execve": "59, A, None, None",
        "execveat": "322, -100, A, None, None, 0",
    }  # fmt: skip
    code = (
        STRINGS
        + f"""
os.mkdir(WORK + '/names'); os.chdir(WORK + '/names')
for what, value in (bad | long).items():
    A = argument(value)
    print(what, [(name, code(*eval(f'({{form}})'))) for name, form in {calls!r}.items()])
print(len(os.listdir('.')))
"""
    )
    confined, _ = run(code + "assert still_confined()")
    assert confined == run(code, confined=False)[0]
    assert confined.count(f", {errno.EFAULT})") > 100
    assert confined.count(f", {errno.ENAMETOOLONG})") > 50


def test_bad_addresses_and_messages_are_answered(run: Run) -> None:
    text, _ = run(
        STRINGS
        + """
left, right = socket.socketpair()
fd = left.fileno()
wrong = []
for what, value in bad.items():
    A = argument(value)
    for name, args in {
        'connect': (42, fd, A, 110), 'connect huge': (42, fd, A, 2**31 - 1),
        'connect minus': (42, fd, A, -1), 'bind': (49, fd, A, 16),
        'sendto': (44, fd, b'x', 1, 0, A, 16),
        'sendmsg': (46, fd, A, 0), 'sendmmsg': (307, fd, A, 2**31 - 1, 0),
    }.items():
        if value is None and name == 'sendto': continue
        if code(*args) == 0: wrong.append((name, what))
for number in (-1, 2**31 - 1, 10**6, -100, -2**31):
    for args in ((42, number, b'\\1\\0x', 3), (49, number, b'\\1\\0x', 3), (50, number, 1),
                 (46, number, b'', 0), (257, number, b'relative', 0, 0), (91, number, 0),
                 (93, number, 0, 0), (322, number, b'', None, None, 0x1000)):
        if number == -100 and args[0] in (257, 322): continue
        if code(*args) == 0: wrong.append(args)
print(wrong, still_confined())
"""
    )
    assert text == "[] True\n"


def test_leaving_in_the_middle_of_a_call_hurts_nobody(run: Run) -> None:
    text, _ = run("""
def spin():
    while True:
        try: open(SECRET)
        except PermissionError: pass
for i in range(120):
    pid = os.fork()
    if pid == 0:
        for _ in range(4): threading.Thread(target=spin, daemon=True).start()
        time.sleep(0.003)
        if i % 3 == 0: os.kill(os.getpid(), signal.SIGKILL)
        if i % 3 == 1: os.execv('/bin/true', ['true'])
        os._exit(0)
    if i % 4 == 0:
        os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
print(still_confined())
""")
    assert text == "True\n"


def test_signals_in_the_middle_of_a_call_hurt_nobody(run: Run) -> None:
    text, _ = run("""
hits = 0
def hit(*_):
    global hits; hits += 1
signal.signal(signal.SIGALRM, hit)
signal.setitimer(signal.ITIMER_REAL, 0.0002, 0.0002)
refused = 0
for _ in range(5000):
    try: open(SECRET)
    except PermissionError: refused += 1
signal.setitimer(signal.ITIMER_REAL, 0)
print(refused, hits > 10, still_confined())
""")
    assert text == "5000 True True\n"


def test_a_thousand_threads_at_once(run: Run) -> None:
    text, recorder = run("""
threading.stack_size(65536)
gate, refused = threading.Event(), []
def ask():
    gate.wait()
    try: open(SECRET)
    except PermissionError: refused.append(1)
threads = [threading.Thread(target=ask) for _ in range(1000)]
for thread in threads: thread.start()
gate.set()
for thread in threads: thread.join()
print(len(refused), still_confined())
""")
    assert text == "1000 True\n"
    assert recorder.counts.total == 1001


def test_huge_arguments_of_a_program(run: Run) -> None:
    text, _ = run("""
def status(argv, env={}):
    pid = os.fork()
    if pid == 0:
        try: os.execve('/bin/true', argv, env)
        except OSError as error: os._exit(error.errno)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
print(status(['true'] + ['x'] * 50_000), status(['true', 'x' * 130_000]),
      status(['true', 'x' * 140_000]) == errno.E2BIG, status(['true'] * 2_000_000) == errno.E2BIG,
      status(['true', '\\n\\x1b[31m']), status([b'true', b'\\xff' * 1000]),
      status(['true'], {'A' * 9999: 'B'}))
print(still_confined())
""")
    assert text == "0 0 True True 0 0 0\nTrue\n"


NAMES = [
    b"line\nbreak", b'{"event":"alert","rule":0,"operation":"File","resource":"/forged"}',
    b'x\n{"event":"alert","rule":0,"operation":"File","resource":"/forged","blocked":true}\nx',
    b"\x1b[2J\x1b[31mred\x07", b"\xff\xfe\x80", b'"quotes"\\', b"\t\r\x0b\x0c\x7f", b"\xe2\x80\xae",
    b"\xed\xa0\x80", b"%s%n%x%%", b"$(id)`id`", b"\xc3\xa9t\xc3\xa9", b"a" * 255, b"\x01",
    b"</script>",
]  # fmt: skip


def test_names_cannot_forge_or_break_alerts(run: Run) -> None:
    seen: list[Alert] = []
    text, recorder = run(f"""
names = {NAMES!r}
for name in names:
    try: os.open(os.fsencode(VAULT) + b'/' + name, os.O_RDONLY)
    except PermissionError: continue
    print('opened', name)
print(len(names))
""", listener=seen.append)  # fmt: skip
    assert text == f"{len(NAMES)}\n"
    assert recorder.counts.total == len(seen) == len(NAMES)
    for alert, name in zip(seen, NAMES, strict=True):
        written = alert.to_json()
        line = json.dumps(written) if isinstance(written, dict) else written
        assert len(line.splitlines()) == 1
        line.encode()  # no half of a surrogate pair
        assert Alert.from_json(line) == alert
        assert "/vault/" in alert.Resource
        assert alert.Resource != "/forged"
        if name.isascii() and name.decode().isprintable():
            assert alert.Resource.endswith("/vault/" + name.decode())


def test_program_with_a_bad_name_is_reported_whole(run: Run) -> None:
    """The caller's own name and arguments are hostile too."""
    seen: list[Alert] = []
    text, _ = run("""
import shutil
path = WORK + '/evil\\n{"event":"exit","code":0}\\x1b[31m'
shutil.copy('/bin/cat', path); os.chmod(path, 0o755)
pid = os.fork()
if pid == 0: os.execv(path, ['a\\nb\\x00'[:3], SECRET])
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != 0, still_confined())
""", listener=seen.append)  # fmt: skip
    assert text.splitlines()[-1] == "True True"
    assert len(seen) == 2
    for alert in seen:
        written = alert.to_json()
        line = json.dumps(written) if isinstance(written, dict) else written
        assert len(line.splitlines()) == 1


def test_descriptor_numbers_stay_the_childs(run: Run) -> None:
    """Whatever the helper opens on its behalf, the child gets what it would have got."""
    text, _ = run("""
before = sorted(int(n) for n in os.listdir('/proc/self/fd'))
fds = [os.open(WORK + '/f%d' % i, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o640) for i in range(50)]
print(fds == list(range(fds[0], fds[0] + 50)), all(not os.get_inheritable(fd) for fd in fds))
fd = libc.open((WORK + '/g').encode(), os.O_CREAT | os.O_WRONLY, 0o666)
print(os.get_inheritable(fd), oct(os.stat(WORK + '/f0').st_mode & 0o777))
os.umask(0o077); os.close(os.open(WORK + '/h', os.O_CREAT | os.O_WRONLY, 0o666))
print(oct(os.stat(WORK + '/h').st_mode & 0o777))
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
try:
    while True: os.open(WORK + '/f0', os.O_RDWR)
except OSError as error: print(errno.errorcode[error.errno])
""")
    assert text == "True True\nTrue 0o640\n0o600\nEMFILE\n"


def test_blocking_pipe_does_not_block_the_helper(run: Run) -> None:
    """Opening a FIFO waits for the other end; nobody else may have to wait with it."""
    text, _ = run(
        """
os.mkfifo(WORK + '/pipe')
got = []
reader = threading.Thread(target=lambda: got.append(open(WORK + '/pipe').read()))
reader.start()
others = [threading.Thread(target=lambda: open(WORK + '/pipe'), daemon=True) for _ in range(3)]
for other in others: other.start()
start = time.monotonic()
for _ in range(100): assert still_confined()
print(time.monotonic() - start < 5, flush=True)
with open(WORK + '/pipe', 'w') as writer: writer.write('through')
reader.join(5)
print('through' in got or got, flush=True)
os._exit(0)
""",
        timeout=30,
    )
    assert text.startswith("True\n")


_OPENERS = """
def openers():
    'What opens for us: the other children of the supervisor.'
    found = []
    for name in filter(str.isdigit, os.listdir('/proc')):
        try:
            with open(f'/proc/{name}/stat') as file: facts = file.read()
        except OSError: continue
        parent = facts.rpartition(')')[2].split()[1]
        if int(parent) == os.getppid() and name != str(os.getpid()): found.append(name)
    return found
def until(wanted):
    deadline = time.monotonic() + 60
    while len(openers()) != wanted and time.monotonic() < deadline: time.sleep(0.01)
    return len(openers()) == wanted
os.mkfifo(WORK + '/pipe')
"""


def test_who_opens_a_pipe_ends_with_its_caller(run: Run) -> None:
    """Otherwise each would be a process that no limit of the workload's counts."""
    text, _ = run(
        _OPENERS
        + """
pids = []
for _ in range(8):
    pids.append(os.fork())
    if not pids[-1]:
        os.open(WORK + '/pipe', os.O_RDONLY)
        os._exit(0)
print(until(8), flush=True)
for pid in pids:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
print(until(0), flush=True)
""",
        timeout=180,
    )
    assert text == "True\nTrue\n"


@pytest.mark.skipif(os.getuid() != 0, reason="only root has capabilities to keep")
def test_who_opens_a_pipe_is_as_unreachable_as_the_supervisor(run: Run) -> None:
    text, _ = run(
        """
before = set(os.listdir('/proc'))
for name in ('/pipe', '/later'):
    os.mkfifo(WORK + name)
    threading.Thread(target=open, args=(WORK + name,), daemon=True).start()
deadline = time.monotonic() + 60
while time.monotonic() < deadline:
    try: os.open(WORK + '/later', os.O_WRONLY | os.O_NONBLOCK)
    except OSError: continue
    break  # the later one is being opened, so the other is as well
opened = []
for name in set(os.listdir('/proc')) - before:
    for what in ('mem', *(f'fd/{n}' for n in range(3, 16))):
        for mode in (os.O_RDONLY, os.O_WRONLY):
            try:
                fd = os.open(f'/proc/{name}/{what}', mode | os.O_NONBLOCK)
                opened.append(os.readlink('/proc/self/fd/%d' % fd))
            except OSError: pass
print(time.monotonic() < deadline, opened, flush=True)
os._exit(0)
""",
        capabilities=frozenset({"chown"}),
        timeout=180,
    )
    assert text == "True []\n"


def test_lease_on_a_file_stops_nobody_else(run: Run) -> None:
    """Who opens a leased file waits for the lease's holder; nobody else has to."""
    text, _ = run(
        """
import fcntl
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGIO})
with open(WORK + '/leased', 'w') as file: file.write('x')
lease = os.open(WORK + '/leased', os.O_RDONLY)
while True:  # the helper may not have closed it yet
    try: fcntl.fcntl(lease, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except BlockingIOError: continue
    break
writer = os.fork()
if not writer:
    with open(WORK + '/leased', 'w') as file: file.write('written')
    os._exit(0)
print(signal.sigtimedwait({signal.SIGIO}, 60) is not None, still_confined(), flush=True)
print(os.waitpid(writer, os.WNOHANG), flush=True)
fcntl.fcntl(lease, fcntl.F_SETLEASE, fcntl.F_UNLCK)
print(os.waitpid(writer, 0)[1], open(WORK + '/leased').read(), flush=True)
""",
        timeout=180,
    )
    assert text == "True True\n(0, 0)\n0 written\n"


def test_long_names_leave_the_alert_what_it_says(run: Run) -> None:
    """Each byte of them is six characters of the event, for which there has to be room."""
    text, recorder = run("""
import shutil, subprocess
deep = WORK + ('/' + 'é' * 120) * 6
os.makedirs(deep)
shutil.copy('/usr/bin/cat', deep + '/cat')
told = [deep + '/cat', deep + '/x.key', 'é' * 500]
open(deep + '/x', 'w').close()
print(subprocess.run(told, cwd=deep, stderr=subprocess.DEVNULL).returncode, flush=True)
""")
    assert text == "1\n"
    alerts = [alert for _, alert in recorder.after(0, 10).alerts]
    assert [alert.Resource[-6:] for alert in alerts] == ["/x.key"]
    assert recorder.counts.suppressed == 0

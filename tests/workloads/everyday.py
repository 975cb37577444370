"""Everyday work, each piece a function that asserts what it got: ``python everyday.py NAME``.

It is copied into a workspace and run there confined, so it uses nothing of this project. Each
function imports what it needs, because what an import refuses is part of what is seen.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def _square(number: int) -> int:
    return number * number


def _pid(_: int) -> int:
    return os.getpid()


# ---- programs


def pipelines() -> None:
    for number in range(150):
        line = f"printf '%s\\n' c{number} a b | sort | head -n 1"
        shell = subprocess.run(line, shell=True, capture_output=True, text=True, check=True)
        assert (shell.stdout, shell.stderr) == ("a\n", ""), shell
        first = subprocess.Popen(["seq", str(number + 1)], stdout=subprocess.PIPE)
        second = subprocess.Popen(["sort", "-rn"], stdin=first.stdout, stdout=subprocess.PIPE)
        assert first.stdout
        first.stdout.close()
        third = subprocess.run(
            ["head", "-n", "1"], stdin=second.stdout, capture_output=True, text=True, check=True
        )
        assert second.stdout
        second.stdout.close()
        assert third.stdout == f"{number + 1}\n", third
        assert first.wait() == 0
        assert second.wait() in (0, -13)


def programs() -> None:
    """Status, signal, environment, directory and descriptors of a child are what was asked for."""
    assert subprocess.run(["sh", "-c", "exit 7"]).returncode == 7
    assert subprocess.run(["sh", "-c", "kill -9 $$"]).returncode == -9
    os.mkdir("below")
    where = subprocess.run(
        ["pwd"], cwd="below", capture_output=True, text=True, env={"PATH": "/bin"}
    )
    assert where.stdout.strip() == os.path.realpath("below")
    read, write = os.pipe()
    os.set_inheritable(write, True)
    subprocess.run(["sh", "-c", f"echo through >&{write}"], close_fds=False, check=True)
    assert os.read(read, 20) == b"through\n"
    try:
        subprocess.run(["no-such-program"])
    except FileNotFoundError:
        pass
    else:
        raise AssertionError("a program that is not there was started")
    assert os.system("true") == 0
    with os.popen("echo popen") as pipe:
        assert pipe.read() == "popen\n"
    pid = os.posix_spawn("/bin/true", ["true"], os.environ)
    assert os.waitpid(pid, 0)[1] == 0
    Path("say.sh").write_text("echo from a script\n")
    said = subprocess.run(["sh", "say.sh"], capture_output=True, text=True)
    assert said.stdout == "from a script\n"


def pip_list() -> None:
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "list"], capture_output=True, text=True, check=True
    )
    assert "numpy" in listed.stdout
    program = os.path.join(os.path.dirname(sys.executable), "pip")
    subprocess.run([program, "show", "numpy"], capture_output=True, check=True)


def ipython_bang() -> None:
    """What a kernel does for ``!command``: a pseudo-terminal, and a shell in it."""
    from IPython.core.interactiveshell import InteractiveShell

    Path("seen.csv").write_text("a,b\n")
    shell = InteractiveShell.instance()
    result = shell.run_cell("listing = !ls *.csv\n!ls -l seen.csv && tty > terminal.txt")
    assert result.success
    assert list(shell.user_ns["listing"]) == ["seen.csv"]
    assert shell.user_ns["_exit_code"] == 0
    assert Path("terminal.txt").read_text().startswith("/dev/pts/")
    shell.run_cell("%system echo magic").raise_error()
    shell.run_cell("%%bash\necho cell > bash.txt").raise_error()
    assert Path("bash.txt").read_text() == "cell\n"
    shell.run_cell("%timeit -n1 -r1 sum(range(10))\n%pwd\n%ls").raise_error()


def pseudo_terminals() -> None:
    import pty

    pid, terminal = pty.fork()
    if pid == 0:
        os.execvp("sh", ["sh", "-c", "test -t 0 && stty size >/dev/null && echo on a terminal"])
    said = b""
    while True:
        try:
            data = os.read(terminal, 1000)
        except OSError:  # what the end of a terminal looks like
            break
        if not data:
            break
        said += data
    assert os.waitpid(pid, 0)[1] == 0, said
    assert b"on a terminal" in said


def asyncio_subprocesses() -> None:
    import asyncio

    async def shout(word: str) -> str:
        process = await asyncio.create_subprocess_exec(
            "tr", "a-z", "A-Z", stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        said, _ = await process.communicate(word.encode())
        assert process.returncode == 0
        return said.decode()

    async def all_at_once() -> list[str]:
        return await asyncio.gather(*(shout(f"word{number}") for number in range(20)))

    assert asyncio.run(all_at_once()) == [f"WORD{number}" for number in range(20)]


def interrupts() -> None:
    import signal
    import time

    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
        time.sleep(20)
    except KeyboardInterrupt:
        pass
    else:
        raise AssertionError("nothing interrupted the sleep")
    code = "import time; print('ready', flush=True); time.sleep(20)"
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert child.stdout
    assert child.stdout.readline() == b"ready\n"
    child.send_signal(signal.SIGINT)
    _, error = child.communicate()
    assert child.returncode == -signal.SIGINT
    assert b"KeyboardInterrupt" in error
    stopped = subprocess.Popen(["sleep", "20"])
    stopped.send_signal(signal.SIGSTOP)
    assert os.WIFSTOPPED(os.waitpid(stopped.pid, os.WUNTRACED)[1])
    stopped.kill()
    assert stopped.wait() == -signal.SIGKILL


# ---- several at once


def _pool(method: str) -> None:
    import multiprocessing

    context = multiprocessing.get_context(method)
    with context.Pool(3) as pool:
        assert pool.map(_square, range(20)) == [number * number for number in range(20)]
        assert os.getpid() not in pool.map(_pid, range(6))
    queue = context.Queue()
    queue.put({"sent": "and received"})
    assert queue.get(timeout=60) == {"sent": "and received"}
    queue.close()
    queue.join_thread()


def multiprocessing_fork() -> None:
    _pool("fork")


def multiprocessing_spawn() -> None:
    _pool("spawn")


def multiprocessing_forkserver() -> None:
    _pool("forkserver")


def shared_memory() -> None:
    from multiprocessing import Manager
    from multiprocessing.shared_memory import SharedMemory

    block = SharedMemory(create=True, size=100)
    block.buf[:4] = b"here"
    other = SharedMemory(block.name)
    assert bytes(other.buf[:4]) == b"here"
    other.close()
    block.close()
    block.unlink()
    with Manager() as manager:
        shared = manager.dict(a=1)
        shared["b"] = 2
        assert dict(shared) == {"a": 1, "b": 2}


def process_pool_executor() -> None:
    from concurrent.futures import ProcessPoolExecutor

    with ProcessPoolExecutor(2) as executor:
        assert list(executor.map(_square, range(10))) == [number**2 for number in range(10)]


def joblib_loky() -> None:
    import numpy
    from joblib import Memory, Parallel, delayed

    assert Parallel(n_jobs=2)(delayed(_square)(number) for number in range(10)) == [
        number * number for number in range(10)
    ]
    large = numpy.ones((1000, 1000))  # above a megabyte it goes through a memory map
    sums = Parallel(n_jobs=2, max_nbytes="1M")(delayed(numpy.sum)(large) for _ in range(4))
    assert sums == [1e6] * 4
    assert Memory("cache", verbose=0).cache(_square)(4) == 16


def torch_dataloader() -> None:
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    data = TensorDataset(torch.arange(64.0).reshape(32, 2), torch.arange(32))
    for context in ("fork", "spawn"):
        loader = DataLoader(data, batch_size=4, num_workers=2, multiprocessing_context=context)
        assert sorted(int(y) for _, ys in loader for y in ys) == list(range(32))


def torch_trains_and_saves() -> None:
    import torch

    torch.manual_seed(0)
    model = torch.nn.Linear(2, 1)
    x = torch.randn(64, 2)
    y = x @ torch.tensor([[2.0], [-1.0]])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    for _ in range(100):
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(model(x), y).backward()
        optimizer.step()
    torch.save(model.state_dict(), "model.pt")
    assert torch.allclose(torch.load("model.pt")["weight"], torch.tensor([[2.0, -1.0]]), atol=0.01)


def threads() -> None:
    import threading

    barrier = threading.Barrier(101)
    done: list[int] = []

    def work(number: int) -> None:
        barrier.wait(30)
        Path(f"thread-{number}").write_text("x")
        done.append(os.path.getsize(f"thread-{number}"))

    workers = [threading.Thread(target=work, args=(number,)) for number in range(100)]
    for worker in workers:
        worker.start()
    barrier.wait(30)
    for worker in workers:
        worker.join()
    assert done == [1] * 100


def unix_sockets() -> None:
    import asyncio
    import socket
    import tempfile

    async def talk(path: str) -> bytes:
        async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write((await reader.readline()).upper())
            await writer.drain()
            writer.close()

        server = await asyncio.start_unix_server(echo, path)
        async with server:
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(b"hello\n")
            answer = await reader.readline()
            writer.close()
            await writer.wait_closed()
        return answer

    with tempfile.TemporaryDirectory() as scratch:
        for path in ("echo.sock", f"{scratch}/echo.sock"):
            assert asyncio.run(talk(path)) == b"HELLO\n"
    left, right = socket.socketpair()
    left.sendall(b"pair")
    assert right.recv(10) == b"pair"
    left.close()
    right.close()


# ---- files


def temporary_files() -> None:
    import tempfile

    for where in (None, "."):
        with tempfile.TemporaryFile(dir=where) as file:
            file.write(b"x")
        with tempfile.NamedTemporaryFile(dir=where) as file:
            assert os.path.exists(file.name)
        with tempfile.SpooledTemporaryFile(max_size=1, dir=where) as file:
            file.write(b"more than fits")
            file.rollover()
        with tempfile.TemporaryDirectory(dir=where) as directory:
            Path(directory, "file").write_text("x")
        handle, name = tempfile.mkstemp(dir=where)
        os.close(handle)
        os.unlink(name)
        os.rmdir(tempfile.mkdtemp(dir=where))
    assert tempfile.gettempdir() == os.environ["TMPDIR"]


def copies() -> None:
    """``copy2`` carries mode, times and extended attributes."""
    import shutil

    os.makedirs("tree/deep/er")
    Path("tree/deep/er/file").write_text("content")
    os.chmod("tree/deep/er/file", 0o640)
    os.utime("tree/deep/er/file", (1_000_000_000, 1_000_000_000))
    marked = True
    try:
        os.setxattr("tree/deep/er/file", "user.note", b"seen")
    except OSError as error:
        assert error.errno == 95, error  # the file system has none
        marked = False
    os.symlink("er/file", "tree/deep/link")
    shutil.copytree("tree", "copy", symlinks=True)
    copied = os.stat("copy/deep/er/file")
    assert (copied.st_mode & 0o777, copied.st_mtime) == (0o640, 1_000_000_000)
    assert os.readlink("copy/deep/link") == "er/file"
    if marked:
        assert os.getxattr("copy/deep/er/file", "user.note") == b"seen"
        os.removexattr("copy/deep/er/file", "user.note")
        assert os.listxattr("copy/deep/er/file") == []
    shutil.copy2(shutil.__file__, "from-the-library.py")
    shutil.chown("copy/deep/er/file", os.getuid(), os.getgid())
    shutil.move("copy/deep", os.environ["TMPDIR"])
    shutil.rmtree(os.path.join(os.environ["TMPDIR"], "deep"))
    subprocess.run(["cp", "-a", "tree", "again"], check=True)
    shutil.rmtree("tree")


def names_and_links() -> None:
    Path("a").write_text("1")
    os.rename("a", "b")
    os.link("b", "c")
    os.symlink("c", "d")
    os.replace("b", "c")
    assert os.stat("c").st_nlink >= 1
    assert Path("d").read_text() == "1"
    os.truncate("c", 0)
    os.mkdir("e")
    os.rename("e", "f")
    os.rmdir("f")
    handle = os.open(".", os.O_RDONLY | os.O_DIRECTORY)
    os.rename("c", "g", src_dir_fd=handle, dst_dir_fd=handle)
    assert os.stat("g", dir_fd=handle).st_size == 0
    os.unlink("d", dir_fd=handle)
    assert "g" in os.listdir(handle)
    os.mkfifo("pipe")
    os.chmod(".", 0o755)
    os.chdir("..")
    os.fchdir(handle)
    os.close(handle)


def long_paths_and_odd_names() -> None:
    for name in ("with space", "ünïcödé", "new\nline", "quo\"te'", "b\\ack", b"\xff\xfe".decode(
        "utf-8", "surrogateescape"
    )):  # fmt: skip
        Path(name).write_text(name.encode("utf-8", "surrogateescape").hex())
        assert Path(name).exists()
        os.unlink(name)
    deep = "/".join(["d" * 100] * 30)
    os.makedirs(deep)
    Path(deep, "file").write_text("deep")
    assert Path(deep, "file").read_text() == "deep"


def archives() -> None:
    import tarfile
    import zipfile

    Path("inside.txt").write_text("inside" * 1000)
    with zipfile.ZipFile("a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write("inside.txt")
    with zipfile.ZipFile("a.zip") as archive:
        archive.extractall("unzipped")
    assert Path("unzipped/inside.txt").read_text() == "inside" * 1000
    with tarfile.open("a.tar.gz", "w:gz") as archive:
        archive.add("inside.txt")
    with tarfile.open("a.tar.gz") as archive:
        archive.extractall("untarred", filter="data")
    subprocess.run(["tar", "czf", "b.tar.gz", "inside.txt"], check=True)
    subprocess.run(["tar", "xzf", "b.tar.gz", "-C", "untarred"], check=True)


def compiled_modules() -> None:
    import importlib
    import py_compile

    Path("mine.py").write_text("VALUE = 41 + 1\n")
    assert py_compile.compile("mine.py", doraise=True)
    sys.path.insert(0, os.getcwd())
    assert importlib.import_module("mine").VALUE == 42
    assert any(name.startswith("mine.") for name in os.listdir("__pycache__"))


def sqlite() -> None:
    import sqlite3

    for mode in ("delete", "wal"):
        base = sqlite3.connect(f"{mode}.db")
        base.execute(f"pragma journal_mode={mode}")
        base.execute("create table t (a, b)")
        with base:
            base.executemany("insert into t values (?, ?)", [(n, n * n) for n in range(1000)])
        other = sqlite3.connect(f"{mode}.db")
        assert other.execute("select sum(b) from t").fetchone() == (332833500,)
        base.execute("vacuum")
        other.close()
        base.close()


def memory_maps() -> None:
    import mmap

    import numpy

    array = numpy.memmap("array.bin", dtype="float64", mode="w+", shape=(500, 500))
    array[:] = 1.5
    array.flush()
    again = numpy.memmap("array.bin", dtype="float64", mode="r", shape=(500, 500))
    assert again.sum() == 375_000
    with open("array.bin", "r+b") as file, mmap.mmap(file.fileno(), 0) as whole:
        whole[:8] = b"\0" * 8
    assert numpy.load(_saved(again), mmap_mode="r")[0, 0] == 0


def _saved(array: object) -> str:
    import numpy

    numpy.save("array.npy", array)
    return "array.npy"


def git() -> None:
    def run(*words: str) -> str:
        done = subprocess.run(["git", *words], capture_output=True, text=True)
        assert done.returncode == 0, (words, done)
        return done.stdout

    run("init", "-q", "repository")
    os.chdir("repository")
    Path("file").write_text("one\n")
    assert "?? file" in run("status", "--short")
    run("add", "file")
    author = ("-c", "user.name=A", "-c", "user.email=a@example.org")
    run(*author, "commit", "-q", "-m", "First")
    Path("file").write_text("two\n")
    assert "+two" in run("diff")
    assert "First" in run("log", "--oneline")
    run("checkout", "-q", "file")
    run("clone", "-q", ".", "../clone")


def virtual_environment() -> None:
    subprocess.run([sys.executable, "-m", "venv", "env"], check=True)
    said = subprocess.run(
        ["env/bin/python", "-c", "import sys; print(sys.prefix)"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert said.stdout.strip() == os.path.realpath("env")
    subprocess.run(["env/bin/python", "-m", "pip", "--version"], check=True)


# ---- libraries


def matplotlib_figure() -> None:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    pyplot.plot([1, 2, 3])
    pyplot.title("Ünïcode, and $x^2$")
    for name in ("figure.png", "figure.pdf", "figure.svg"):
        pyplot.savefig(name)
        assert os.path.getsize(name) > 1000


def pandas_files() -> None:
    import pandas

    frame = pandas.DataFrame({"a": range(1000), "b": [f"text {n}" for n in range(1000)]})
    for name in ("frame.csv", "frame.csv.gz", "frame.csv.xz"):
        frame.to_csv(name, index=False)
        assert pandas.read_csv(name).equals(pandas.read_csv("frame.csv"))
    frame.to_pickle("frame.pkl")
    assert pandas.read_pickle("frame.pkl")["a"].sum() == 499500
    frame.to_json("frame.json")
    assert len(pandas.read_json("frame.json")) == 1000
    assert pandas.Timestamp("2024-07-01", tz="Europe/Berlin").utcoffset().seconds == 7200


def sklearn_model() -> None:
    import pickle

    import joblib
    from sklearn.datasets import load_iris
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.model_selection import GridSearchCV

    x, y = load_iris(return_X_y=True)
    model = RandomForestClassifier(10, random_state=0, n_jobs=2).fit(x, y)
    Path("model.pkl").write_bytes(pickle.dumps(model))
    again = pickle.loads(Path("model.pkl").read_bytes())
    assert (again.predict(x) == model.predict(x)).all()
    joblib.dump(model, "model.joblib", compress=3)
    assert joblib.load("model.joblib").score(x, y) > 0.9
    search = GridSearchCV(RandomForestClassifier(5), {"max_depth": [1, 2]}, cv=2, n_jobs=2)
    assert search.fit(x, y).best_score_ > 0.5


def machine_facts() -> None:
    """What libraries ask about the machine and the user when they are imported."""
    import getpass
    import grp
    import locale
    import platform
    import pwd
    import socket
    import time
    import uuid
    import zoneinfo

    import psutil

    assert os.cpu_count()
    assert os.sched_getaffinity(0)
    assert os.getloadavg()
    assert platform.platform()
    assert platform.freedesktop_os_release()
    assert pwd.getpwuid(0).pw_name == "root"
    assert grp.getgrgid(0).gr_name
    assert getpass.getuser()
    assert socket.gethostname()
    assert os.path.expanduser("~") == os.environ["HOME"]
    locale.setlocale(locale.LC_ALL, "C.UTF-8")
    time.tzset()
    assert "Europe/Paris" in zoneinfo.available_timezones()
    assert uuid.uuid1().version == 1
    assert psutil.virtual_memory().total
    assert psutil.cpu_percent(0.01) >= 0
    assert psutil.Process().memory_info().rss
    assert psutil.Process().num_threads()
    assert psutil.disk_usage(".").total
    assert Path("/proc/self/status").read_text().startswith("Name:")
    assert Path(f"/proc/{os.getpid()}/maps").read_text()
    assert Path("/proc/meminfo").read_text()


def foreign_functions() -> None:
    import ctypes
    import ctypes.util

    assert ctypes.CDLL(ctypes.util.find_library("m")).abs(-3) == 3
    compare = ctypes.CFUNCTYPE(
        ctypes.c_int, ctypes.POINTER(ctypes.c_int), ctypes.POINTER(ctypes.c_int)
    )
    numbers = (ctypes.c_int * 4)(3, 1, 4, 2)
    ctypes.CDLL(None).qsort(
        numbers, 4, ctypes.sizeof(ctypes.c_int), compare(lambda a, b: a[0] - b[0])
    )
    assert list(numbers) == [1, 2, 3, 4]


def web_libraries() -> None:
    """They can be imported and used up to the connection, which is what is refused."""
    import requests

    assert requests.Request("GET", "https://example.org").prepare().url == "https://example.org/"
    try:
        requests.get("http://192.0.2.1/", timeout=5)
    except requests.ConnectionError as error:
        assert "Permission denied" in str(error), error
    else:
        raise AssertionError("a connection was made")


# ---- with a model that nobody has vouched for


def benign_models() -> None:
    """Models that were made by `make_models`, which ran unconfined."""
    import joblib
    import torch

    model = joblib.load("model.joblib")
    assert model.predict([[0.0, 0.0], [3.0, 3.0]]).tolist() == [0, 1]
    assert torch.load("model.pt")["weight"].shape == (1, 2)
    network = torch.load("network.pt", weights_only=False)
    assert network(torch.zeros(1, 2)).shape == (1, 1)


def other_programs() -> None:
    """Nothing but Python is started, whatever the way."""
    import shutil

    Path("script.sh").write_text("#!/bin/sh\necho ran\n")
    os.chmod("script.sh", 0o755)
    shutil.copy("/bin/true", "copy-of-true")
    for command in (["sh", "-c", "id"], ["/bin/true"], ["./script.sh"], ["./copy-of-true"],
                    ["/lib64/ld-linux-x86-64.so.2", "/bin/true"]):  # fmt: skip
        try:
            subprocess.run(command, check=True)
        except PermissionError:
            continue
        raise AssertionError(f"{command} was started")
    assert os.system("true") >> 8 == 127
    assert subprocess.run([sys.executable, "-c", "exit(3)"]).returncode == 3


def read_only_workspace() -> None:
    """What is below the first argument can be read, and changed in no way."""
    workspace = os.path.dirname(os.path.abspath(__file__))
    source = os.path.join(workspace, "everyday.py")
    assert "read_only_workspace" in Path(source).read_text()
    assert "everyday.py" in os.listdir(workspace)
    for change in (
        lambda: Path(source).write_text("changed"),
        lambda: Path(workspace, "new").write_text("new"),
        lambda: os.unlink(source),
        lambda: os.rename(source, source + "2"),
        lambda: os.rename(source, os.path.join(os.environ["TMPDIR"], "taken")),
        lambda: os.chmod(source, 0o777),
        lambda: os.utime(source),
        lambda: os.truncate(source, 0),
        lambda: os.mkdir(os.path.join(workspace, "new")),
    ):
        try:
            change()
        except PermissionError:
            continue
        raise AssertionError("the workspace was changed")
    os.makedirs("results")  # the scratch directory is where this runs
    Path("results/scores.csv").write_text("1\n")


# ---- with HTTPS out


def connections() -> None:
    """What comes of a connection to each ``host:port`` of the arguments, one line each."""
    import socket

    for target in sys.argv[2:]:
        host, _, port = target.rpartition(":")
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as sock:
            sock.settimeout(5)
            try:
                sock.connect((host, int(port)))
                answer = sock.recv(100).decode()
            except PermissionError:
                answer = "refused"
            except OSError as error:
                answer = f"tried: {error}"
        print(f"{target} {answer}", flush=True)


def devices() -> None:
    """The interpreter opens the GPU's device; a program that it starts does not."""
    with open("/dev/nvidiactl", "r+b", buffering=0):
        pass
    assert subprocess.run(["sh", "-c", "exec 3<>/dev/nvidiactl"], stderr=subprocess.PIPE).returncode
    import torch

    if torch.version.cuda:
        assert (torch.ones(4, device="cuda") * 2).sum().item() == 8


def make_models() -> None:
    import joblib
    import torch
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression().fit([[0, 0], [1, 0], [2, 3], [3, 2]], [0, 0, 1, 1])
    joblib.dump(model, "model.joblib")
    torch.save(torch.nn.Linear(2, 1).state_dict(), "model.pt")
    torch.save(torch.nn.Linear(2, 1), "network.pt")


if __name__ == "__main__":
    globals()[sys.argv[1]]()

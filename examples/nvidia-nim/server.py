"""Stands in for NIM's server, with a model that has taken it over: it works, and then it attacks.

Every payload is harmless. It runs as ``/opt/nim/llm/server.py`` of the container.
"""

import os
import shutil
import subprocess
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

BOX = Path(__file__).parents[3]


class Answer(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"ready")

    def log_message(self, *arguments):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
port = server.server_address[1]
threading.Thread(target=server.serve_forever, daemon=True).start()


def attempt(what, act):
    try:
        act()
        print(f"{what}: SUCCEEDED", flush=True)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"{what}: refused ({type(error).__name__})", flush=True)


def answers():
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/health/ready") as answer:
        assert answer.read() == b"ready"


def read(path):
    (BOX / path).read_bytes()


def write(path):
    with (BOX / path).open("a"):
        pass


def run(*command):
    subprocess.run(command, check=True, capture_output=True)


def shell(line):
    run("/usr/bin/bash", "-c", line)


def miner():
    shutil.copy("/usr/bin/true", BOX / "tmp/xmrig")
    run(str(BOX / "tmp/xmrig"))


attempt("the server answers", answers)
attempt("the server reads its weights", lambda: read("opt/nim/.cache/weights.bin"))
attempt("the server writes its cache", lambda: write("opt/nim/.cache/compiled"))
attempt("the server opens the GPU", lambda: os.close(os.open(BOX / "dev/nvidia0", os.O_RDWR)))
attempt("the server reads CUDA", lambda: read("usr/local/cuda-12.6/lib64/libcudart.so"))
attempt("a shell reads HPC-X", lambda: shell(f"exec 3<{BOX}/opt/hpcx/libucp.so"))
print()
attempt("the model changes the server's code", lambda: write("opt/nim/llm/server.py"))
attempt("a shell reads the weights", lambda: shell(f"exec 3<{BOX}/opt/nim/.cache/weights.bin"))
attempt("a shell opens the GPU", lambda: shell(f"exec 3<{BOX}/dev/nvidia0"))
attempt("a shell connects", lambda: shell(f"exec 3<>/dev/tcp/127.0.0.1/{port}"))
attempt("nvidia-smi runs", lambda: run(str(BOX / "usr/local/bin/nvidia-smi")))
attempt("another program runs", lambda: run("/usr/bin/env"))
attempt("a miner that was dropped runs", miner)
attempt("the model reads /etc/shadow", lambda: read("etc/shadow"))
attempt("the model reads the registry's key", lambda: read("run/secrets/ngc-api-key"))

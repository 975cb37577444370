"""A directory that is laid out as a container of NVIDIA NIM, and NIM's policies for it.

A policy names absolute paths. Here NIM's own (``/opt/nim``, ``/dev/nvidia0``, …) lie below a
directory, so that no image is needed; the system's (``/usr/bin/bash``, …) are this machine's.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

import yaml

import modelarmor

POLICIES = Path(modelarmor.__file__).parent / "cluster" / "nim"
PYTHON = os.path.realpath(sys.executable)
_MOVED = ("/opt/", "/tmp/", "/dev/nvidia", "/usr/local/cuda", "/run/secrets", "/var/run/secrets",
          "/etc/shadow")  # fmt: skip

_FILES = {
    "/opt/nvidia/nvidia_entrypoint.sh": '#!/usr/bin/bash\nexec "$@"\n',
    "/opt/nim/start-server.sh": "#!/usr/bin/bash\nexec {python} -IS {box}/opt/nim/llm/server.py\n",
    "/opt/nim/.cache/weights.bin": "weights",
    "/opt/hpcx/libucp.so": "a library",
    "/usr/local/cuda-12.6/lib64/libcudart.so": "a library",
    "/usr/local/bin/nvidia-smi": "#!/usr/bin/bash\necho GPU 0\n",
    "/dev/nvidia0": "a device",
    "/etc/shadow": "root:not-a-real-one\n",
    "/run/secrets/ngc-api-key": "nvapi-not-a-real-one",
    "/tmp/.keep": "",
}
START = ("/opt/nvidia/nvidia_entrypoint.sh", "/opt/nim/start-server.sh")


def build(box: Path) -> list[str]:
    """Lay the container out below `box`, and return the command that starts its server."""
    for path, text in _FILES.items():
        file = Path(f"{box}{path}")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text.format(python=PYTHON, box=box))
        file.chmod(0o755 if text.startswith("#!") else 0o644)
    server = box / "opt/nim/llm/server.py"
    server.parent.mkdir()
    shutil.copy(Path(__file__).with_name("server.py"), server)
    return [f"{box}{path}" for path in START]


def policy(box: Path) -> str:
    """The policies of the container, for where its files are on this machine."""
    text = (POLICIES / "policy.yaml").read_text(encoding="utf-8")
    documents = [_moved(item, box) for item in yaml.safe_load_all(text)]
    return yaml.safe_dump_all([*documents, _this_machine(box)], sort_keys=False)


def _moved(item: Any, box: Path) -> Any:
    if isinstance(item, dict):
        return {
            key: _place(value, box) if key in ("path", "dir") else _moved(value, box)
            for key, value in item.items()
        }
    return [_moved(each, box) for each in item] if isinstance(item, list) else item


def _place(path: str, box: Path) -> str:
    if path == "/usr/bin/python3.10":
        return PYTHON
    return f"{box}{path}" if path.startswith(_MOVED) else path


def _this_machine(box: Path) -> dict[str, Any]:
    """What the policies grant in an image, where it lies here."""
    return {
        "apiVersion": "security.kubearmor.com/v1",
        "kind": "KubeArmorPolicy",
        "metadata": {"name": "this-machine"},
        "spec": {
            "selector": {"matchLabels": {"modelarmor.io/profile": "nvidia-nim"}},
            "action": "Allow",
            "file": {
                "matchDirectories": [
                    {"dir": f"{place}/", "recursive": True, "readOnly": True}
                    for place in (Path(sys.base_prefix, "lib"), box / "usr/local")
                ]
            },
        },
    }

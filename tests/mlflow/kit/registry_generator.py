"""A generator for tests of the registry: quick, and steered by files of the model.

``findings.txt`` has a finding a line (severity, a space, its title); ``hold.txt`` names a file that
is waited for; ``fail.txt`` is why it fails; ``crash.txt`` ends the process.
"""

import os
import signal
import time
from pathlib import Path

from modelarmor.generate.artifact import inspect
from modelarmor.generate.evidence import Evidence, Finding, Observation, Scan, Voice

POLICY = """\
apiVersion: security.kubearmor.com/v1
kind: KubeArmorPolicy
metadata:
  name: test-model
spec:
  selector:
    matchLabels:
      app: model
  file:
    matchDirectories:
      - dir: /opt/model/
        recursive: true
        readOnly: true
  action: Allow
"""


def generate(source, *, progress):
    """What `modelarmor.generate.pipeline.generate` does, without looking."""
    model = Path(source)
    progress("looking 25 %")
    _wait(model / "hold.txt")
    if (model / "crash.txt").exists():
        os.kill(os.getpid(), signal.SIGSEGV)
    if (model / "fail.txt").exists():
        raise ValueError((model / "fail.txt").read_text())
    secrets = [name for name in os.environ if "SECRET" in name]
    findings = tuple(
        Finding(rule="from-the-test", severity=severity, title=title, location="findings.txt")
        for severity, title in _findings(model / "findings.txt")
    )
    extra = (model / "policy.txt").read_text() if (model / "policy.txt").exists() else ""
    return Evidence(
        artifact=inspect(model),
        scan=Scan(
            voices=(Voice(name="test", status="complete", note=" ".join(secrets)),),
            findings=findings,
        ),
        observation=Observation(completed=("start", "load"), predictions=1),
        policy=POLICY + extra,
        resources={"memory": "1Gi"},
        generator="test",
    )


def _wait(file):
    if not file.exists():
        return
    awaited, _, started = file.read_text().partition("\n")
    if started:
        Path(started).write_text(str(os.getpid()))
    while not Path(awaited).exists():
        time.sleep(0.05)


def _findings(file):
    if file.exists():
        for line in file.read_text().splitlines():
            yield line.split(" ", 1)

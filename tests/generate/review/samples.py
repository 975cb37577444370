"""Evidence by hand: a scikit-learn model, the version before it, and one that hates its readers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from modelarmor.generate.evidence import (
    Artifact,
    ArtifactFile,
    Event,
    Evidence,
    Finding,
    Observation,
    Reason,
    Scan,
    Usage,
    Voice,
)
from modelarmor.policy.decide import Operation

PROFILE = Path(__file__).parents[3] / "kernel_profiles" / "untrusted-model"
PYTHON = "/${PREFIX}/bin/python"


def _event(phase: str, kind: str, path: str = "", count: int = 1, **more: object) -> Event:
    return Event(
        phase=phase,  # type: ignore[arg-type]
        operation=Operation(kind, path, source=PYTHON, **more),  # type: ignore[arg-type]
        count=count,
    )


LSCPU = _event("serve", "exec", "/usr/bin/lscpu")
SHADOW = _event("load", "read", "/etc/shadow")

IRIS = Evidence(
    artifact=Artifact(
        source="models:/iris/4",
        flavour="sklearn",
        flavours=("sklearn", "python_function"),
        loader="mlflow.sklearn",
        files=(
            ArtifactFile(path="MLmodel", size=812, sha256="1a" * 32, format="yaml"),
            ArtifactFile(path="model.pkl", size=48_213, sha256="2b" * 32, format="pickle"),
            ArtifactFile(path="code/features.py", size=2_048, sha256="3c" * 32, format="text"),
            ArtifactFile(path="requirements.txt", size=92, sha256="4d" * 32, format="text"),
        ),
        digest="sha256:" + "cd" * 32,
        requirements=("mlflow==3.17.2", "scikit-learn==1.9.1"),
        findings=(
            Finding(
                rule="model-carries-code",
                severity="medium",
                title="The model brings Python code of its own",
                detail="code/features.py is imported when the model is loaded.",
                location="code/features.py",
                techniques=("AML.T0011.000",),
            ),
        ),
    ),
    scan=Scan(
        voices=(
            Voice(name="modelarmor", version="0.1.0", status="complete", inspected=4),
            Voice(name="picklescan", version="1.0.5", status="complete", inspected=1),
            Voice(name="modelaudit", version="0.2.54", status="incomplete", inspected=2,
                  note="stopped after 60 s"),
            Voice(name="fickling", status="absent", note="not installed"),
        ),
        findings=(
            Finding(
                rule="pickle-global-not-allowed",
                severity="high",
                title="The pickle calls posix.system",
                detail="GLOBAL posix.system at 1234, then REDUCE with one string argument.",
                location="model.pkl:1234",
                techniques=("T1059.004", "AML.T0011.000"),
            ),
            Finding(
                rule="dangerous-global", severity="critical", title="posix.system",
                location="model.pkl", source="picklescan 1.0.5", techniques=("T1059.004",),
            ),
        ),
        uninspected=("code/features.py",),
    ),
    observation=Observation(
        completed=("start", "load", "serve"),
        events=(
            _event("start", "exec", PYTHON, 1),
            _event("start", "read", "/usr/lib/x86_64-linux-gnu/libc.so.6", 3),
            _event("start", "read", "/${PREFIX}/lib/python3.11/site-packages/sklearn/base.py", 211),
            _event("load", "read", "/${MODEL}/model.pkl", 2),
            _event("load", "list", "/${MODEL}", 1),
            _event("load", "create", "/dev/shm/sem.abc", 2),
            SHADOW,
            _event("serve", "write", "/${TMP}/joblib/x", 5),
            _event("serve", "network", family="unix", protocol=""),
            _event("serve", "network", family="inet6"),
            LSCPU,
        ),
        input="input_example",
        predictions=5,
        usage=Usage(cpu_seconds=3.25, memory=421 << 20, processes=9, disk=12 << 10),
        findings=(
            Finding(
                rule="read-canary", severity="critical", source="observation",
                title="Loading reads the password file", location="/etc/shadow",
                techniques=("T1003.008",),
            ),
        ),
    ),
    policy=(PROFILE / "policy.yaml").read_text(encoding="utf-8"),
    network=(PROFILE / "network.yaml").read_text(encoding="utf-8"),
    resources={"cpu": "2", "memory": "1Gi", "pids": "64", "ephemeral-storage": "512Mi"},
    reasons=(
        Reason(
            policy="modelarmor-untrusted-model", rule="spec.file.matchDirectories[1]",
            what="the model's own files", kind="observed", count=3, phases=("load",),
        ),
        Reason(
            policy="modelarmor-untrusted-model", rule="spec.process.matchPaths[0]",
            what="the interpreter", kind="template", origin="interpreter",
        ),
        Reason(
            policy="modelarmor-untrusted-model-programs", rule="spec.process.matchPaths[0]",
            what="shells", kind="finding", origin="0123456789abcdef",
        ),
    ),
    expected_denials=(replace(LSCPU, count=1),),
    generator="0.1.0",
)  # fmt: skip

#: the version that was approved before: no code of its own, no findings, a milder network
BEFORE = replace(
    IRIS,
    artifact=replace(
        IRIS.artifact,
        source="models:/iris/3",
        files=(
            IRIS.artifact.files[0],
            replace(IRIS.artifact.files[1], sha256="ff" * 32, size=40_000),
            IRIS.artifact.files[3],
            ArtifactFile(path="old.bin", size=1, sha256="5e" * 32),
        ),
        digest="sha256:" + "ee" * 32,
        requirements=("mlflow==3.16.0", "scikit-learn==1.9.1"),
        findings=(),
    ),
    scan=replace(IRIS.scan, findings=(), uninspected=()),
    policy=IRIS.policy.replace('- {dir: "${TMP}/", recursive: true}', ""),
    resources={"cpu": "2", "memory": "512Mi", "pids": "64"},
)

#: what a name, a finding or a path may hold: markup, terminal escapes, deceptive directions
NASTY = (
    '<script>alert(1)</script><img src=x onerror="alert(2)">\'"&'
    "\x1b[2J\x1b]0;owned\x07\u202egnp.exe\u202c\u200b\ud800\r\n\x00]]>--></title></style>"
)
HOSTILE = Evidence(
    artifact=Artifact(
        source=NASTY,
        flavour=NASTY,
        loader=NASTY,
        files=(ArtifactFile(path=NASTY, size=1, sha256=NASTY, format=NASTY),),
        digest=NASTY,
        requirements=(NASTY,),
        findings=(
            Finding(rule=NASTY, severity="critical", title=NASTY, detail=NASTY, location=NASTY,
                    source=NASTY, techniques=(NASTY,)),
        ),
    ),
    scan=Scan(
        voices=(Voice(name=NASTY, version=NASTY, status="failed", note=NASTY),),
        uninspected=(NASTY,),
    ),
    observation=Observation(
        completed=("start",),
        events=(
            _event("load", "read", "/" + NASTY),
            _event("load", "network", dns=NASTY),
            _event("load", "exec", "/bin/sh", args=(NASTY,)),
        ),
        input=NASTY,
        error=NASTY,
        unlisted=3,
    ),
    policy=IRIS.policy + f"\n---\n# {NASTY!r}\nkind: {NASTY!r}\n",
    network=NASTY,
    resources={NASTY: NASTY},
    reasons=(Reason(policy="modelarmor-untrusted-model", rule="spec.file.matchPaths[0]",
                    what=NASTY, kind="template", origin=NASTY),),
    generator=NASTY,
)  # fmt: skip

"""Where a model is watched: what it finds there, and what it cannot reach.

It is the profile ``untrusted-model``, so that the model meets the world in which it will serve,
with three differences. Every operation is reported, whether or not it is refused. The home
directory is a scratch one with canaries in it, credentials that are worth nothing and that nobody
but a thief looks for; the real one is out of reach. And the network has one address that nobody
has, so that a connection is refused where its address is known, not before there is one.
"""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from modelarmor import profiles
from modelarmor.policy.model import (
    Outcome,
    PathRule,
    Policy,
    ProtocolRule,
)
from modelarmor.profiles import Profile
from modelarmor.sandbox.network import Egress, EgressRule
from modelarmor.sandbox.probe import probe
from modelarmor.sandbox.resources import Resources

#: the profile in which models are watched
PROFILE: Final = "untrusted-model"
#: policy names of this room, as they stand in alerts
RECORDING: Final = "observation-recording"
FOREIGN: Final = "observation-shared-memory"

#: TEST-NET-1 (RFC 5737) and the discard port: nobody is there
_NOWHERE: Final = EgressRule("192.0.2.1/32", ports=[("tcp", 9)])

#: in the home directory: what credential thieves look for first
CANARY_FILES: Final = (
    ".ssh/id_rsa", ".ssh/id_ed25519", ".aws/credentials", ".netrc", ".kube/config",
    ".git-credentials", ".docker/config.json",
    ".config/gcloud/application_default_credentials.json",
    ".pypirc", ".huggingface/token", ".cache/huggingface/token", ".databrickscfg",
)  # fmt: skip
CANARY_VARIABLES: Final = (
    "AWS_SECRET_ACCESS_KEY", "GITHUB_TOKEN", "HF_TOKEN", "OPENAI_API_KEY", "DATABASE_PASSWORD",
)  # fmt: skip
#: more than a model should need, and never so much that the machine suffers
_LIMITS: Final = Resources(
    memory=min(8 << 30, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * 3 // 4),
    processes=512,
    open_files=4096,
    disk=2 << 30,
)


@dataclass(frozen=True)
class Cage:
    """One observation's surroundings."""

    profile: Profile
    #: scratch: ``${TMP}``; the home directory is in it
    tmp: Path
    home: Path
    #: file in the home directory -> the secret in it
    canaries: Mapping[str, str] = field(repr=False)
    env: Mapping[str, str] = field(repr=False)


def home_of(tmp: Path) -> Path:
    """The home directory of a served or watched model, which ends with its scratch directory."""
    return tmp / "home"


def make_cage(scratch: Path, *, model: Path, prefix: Path, runner: Path) -> Cage:
    """Lay the surroundings out.

    Args:
        scratch: an empty directory of this observation's own.
        model: the model; it can be read.
        prefix: the Python environment that loads it; it can be read.
        runner: the directory of the program that loads it.

    Raises:
        ProfileError: a place contains the home directory, so granting it would grant the home.
    """
    tmp = scratch / "tmp"
    home = home_of(tmp)
    canaries = _lay_canaries(home)
    profile = profiles.load(
        PROFILE, workspace=runner, home=Path.home(), tmp=tmp, prefix=prefix, model=model
    )
    known = {"PATH": os.pathsep.join((str(prefix / "bin"), "/usr/bin", "/bin"))}
    inherited = {name: value for name, value in os.environ.items() if name in ("LANG", "TZ")}
    env = profile.environ({**inherited, **known})
    env |= {"HOME": str(home), "USER": "model", "LOGNAME": "model"}
    env |= serving_variables(tmp)
    env |= {name: canaries[name] for name in CANARY_VARIABLES}
    policies = (*profile.policies, _recording(), *_shared_memory_of_others())
    confined = replace(profile, policies=policies, network=_nowhere(), resources=_LIMITS)
    return Cage(confined, tmp, home, canaries, env)


def serving_variables(tmp: Path) -> dict[str, str]:
    """Variables of a model at work: caches go to scratch, nothing is fetched or reported."""
    return {
        "HF_HOME": str(tmp / "cache" / "hf"),
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TORCHINDUCTOR_CACHE_DIR": str(tmp / "cache" / "inductor"),
        "TRITON_CACHE_DIR": str(tmp / "cache" / "triton"),
        "NUMBA_CACHE_DIR": str(tmp / "cache" / "numba"),
        "KERAS_HOME": str(tmp / "cache" / "keras"),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "1",
        # What was installed is read-only; trying to compile it again only raises alerts.
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def interpreter(prefix: Path) -> Path:
    """The Python of an environment.

    Raises:
        FileNotFoundError: it has none.
    """
    found = prefix / "bin" / "python"
    if not found.exists():
        found = Path(sys.executable) if prefix == Path(sys.prefix) else prefix / "bin" / "python3"
    if not found.exists():
        raise FileNotFoundError(f"{prefix}: there is no bin/python in this Python environment")
    return found


def _lay_canaries(home: Path) -> dict[str, str]:
    secrets_of: dict[str, str] = {}
    for name in CANARY_FILES:
        file = home / name
        file.parent.mkdir(parents=True, exist_ok=True)
        secrets_of[name] = secrets.token_hex(20)
        file.write_text(f"# canary\npassword = {secrets_of[name]}\n", encoding="ascii")
        file.chmod(0o600)
    return secrets_of | {name: secrets.token_hex(20) for name in CANARY_VARIABLES}


def _nowhere() -> Egress:
    """Where addresses are checked exactly, so that they are told; elsewhere no sockets at all."""
    report = probe()
    exact = report.acts_on_sockets and report.landlock_abi >= 4
    return Egress((_NOWHERE,)) if exact else Egress.none()


def _recording() -> Policy:
    """Audits everything; what a rule refuses is reported anyway."""
    outcome = Outcome("Audit")
    everything = PathRule(outcome, match="directory", value="/", recursive=True)
    return Policy(
        "KubeArmorPolicy",
        RECORDING,
        process=(everything,),
        file=(everything,),
        network=(ProtocolRule(outcome, protocol="all"),),
        outcome=outcome,
    )


def _shared_memory_of_others() -> list[Policy]:
    """What other programs have in shared memory right now is not the model's to touch."""
    try:
        names = sorted(path.name for path in Path("/dev/shm").iterdir())
    except OSError:
        names = []
    if not names:
        return []
    outcome = Outcome("Block", 7, (), "Shared memory of another program")
    rules = []
    for name in names:
        path = Path("/dev/shm", name)
        rules.append(PathRule(outcome, match="path", value=str(path)))
        if path.is_dir() and not path.is_symlink():
            rules.append(PathRule(outcome, match="directory", value=f"{path}/", recursive=True))
    return [Policy("KubeArmorPolicy", FOREIGN, file=tuple(rules), outcome=outcome)]

"""A generated policy at work: filled in for a place, and what of its refusals is no news."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from modelarmor import _yaml, profiles
from modelarmor.alerts import Alert
from modelarmor.generate.evidence import Evidence
from modelarmor.generate.observe.cage import PROFILE, home_of, serving_variables
from modelarmor.generate.places import Places, real
from modelarmor.generate.replay import described
from modelarmor.generate.synthesize import benign
from modelarmor.policy.decide import Operation
from modelarmor.profiles import Profile
from modelarmor.sandbox.network import Egress
from modelarmor.sandbox.resources import Resources


def filled(
    evidence: Evidence,
    *,
    model: Path,
    prefix: Path,
    tmp: Path,
    home: Path | None = None,
    workspace: Path | None = None,
) -> Profile:
    """What confines the model somewhere, in the shape in which every profile comes.

    ``Profile.environ`` gives the environment: what a model may inherit, a home directory in
    scratch, caches too. The home directory (``Profile.variables["HOME"]``) is made, empty.

    Args:
        evidence: with its policy.
        model: ``${MODEL}``, where the model lies.
        prefix: ``${PREFIX}``, the Python environment that serves it.
        tmp: ``${TMP}``, a scratch directory of this workload alone.
        home: ``${HOME}``, whose credentials stay out of reach; the user's own if left out.
        workspace: ``${WORKSPACE}``, which a generated policy does not name.

    Raises:
        ProfileError: a place contains the home directory.
        PolicyError, ValueError: the evidence has no policy or network policy, or one that is none.
    """
    if not evidence.policy:
        raise ValueError("the evidence has no policy; generate it again")
    places: dict[str, Any] = {
        "model": model,
        "prefix": prefix,
        "tmp": tmp,
        "home": Path.home() if home is None else home,
        "workspace": tmp if workspace is None else workspace,
    }
    name = f"{evidence.artifact.flavour} model"
    base = profiles.load(PROFILE, **places)
    scratch_home = home_of(tmp.resolve())
    scratch_home.mkdir(mode=0o700, parents=True, exist_ok=True)
    return replace(
        base,
        name="generated",
        title=name,
        description=f"Generated for {evidence.artifact.digest}",
        display_name=name,
        policies=profiles.fill(evidence.policy, name="<generated policy>", **places),
        network=egress_of(evidence.network),
        resources=Resources.from_kubernetes(evidence.resources),
        variables={
            **base.variables,
            **serving_variables(tmp.resolve()),
            "HOME": str(scratch_home),
        },
    )


def egress_of(network: str) -> Egress:
    """What a NetworkPolicy of evidence lets out.

    Raises:
        ValueError: it is none.
    """
    name = "<generated network policy>"
    try:
        document = _yaml.loads(network.encode())
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    return Egress.from_network_policy(document, name=name)


def is_expected(evidence: Evidence, alert: Alert, places: Places) -> bool:
    """Whether an alert tells of what the policy refuses on purpose and harmless models ask for.

    Args:
        evidence: whose `Evidence.expected_denials` are meant.
        alert: of the sandbox or of KubeArmor.
        places: where the model is served.
    """
    asked = described(alert)
    if asked is None:
        return False
    meant = places.event(asked, (str(alert.PID), str(alert.HostPID)))
    return any(benign.resembles(event.operation, meant) for event in evidence.expected_denials)


def operations(
    evidence: Evidence,
    *,
    model: Path,
    prefix: Path,
    tmp: Path,
    home: Path,
    workspace: Path | None = None,
) -> Sequence[Operation]:
    """What was seen when the model was watched, as it would be there: to put it to a filled policy.

    Args: as for `filled`. A template that stands for two directories, as a virtual environment
    does for its own and the one that it was made from, gives an operation of each.
    """
    if evidence.observation is None:
        return ()
    values = profiles.template_values(
        model=model, prefix=prefix, tmp=tmp, home=home, workspace=workspace
    )
    return tuple(
        one for event in evidence.observation.events for one in real(event.operation, values)
    )

from __future__ import annotations

from pathlib import Path

import pytest

from modelarmor.generate.evidence import Evidence
from tests.generate.flavours import support


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where models are trained, a flavour at a time, when it is asked for."""
    return tmp_path_factory.mktemp("models")


_made: dict[str, Evidence] = {}


def evidence(flavour: str, directory: Path) -> Evidence:
    """The evidence of the first model of a flavour; made once."""
    if flavour not in _made:
        model = support.models(flavour, directory)[0]
        _made[flavour] = support.evidence_of(model, given=support.GIVEN.get(flavour))
    return _made[flavour]

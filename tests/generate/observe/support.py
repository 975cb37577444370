"""Models that misbehave when they are loaded: pickles that run a text.

What they aim at lies in the test's own directory, so that they harm nothing even where nothing
holds them.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

from modelarmor.generate.artifact import open_model
from modelarmor.generate.evidence import Observation
from modelarmor.generate.observe import observe


class _Runs:
    """Pickles as a call of ``exec``; unpickled it is what ``exec`` gives: nothing."""

    def __init__(self, code: str) -> None:
        self._code = code

    def __reduce__(self) -> Any:
        return exec, (self._code, {})


def model(file: Path, code: str) -> Path:
    """A pickle that runs ``code`` as it is loaded."""
    file.write_bytes(pickle.dumps(_Runs(code)))
    return file


def watched(file: Path, **options: Any) -> Observation:
    with open_model(file) as opened:
        return observe(opened, **options)


def rules(observation: Observation, *severities: str) -> set[str]:
    return {
        finding.rule
        for finding in observation.findings
        if not severities or finding.severity in severities
    }


#: ends what a payload tells of itself: the error of the load comes out with the observation
TELL = "\nraise RuntimeError('done: ' + ' '.join(done))\n"
TRY = """
done = []
def attempt(name, what):
    try:
        what()
    except OSError:
        return
    done.append(name)
"""

"""A confined kernel, wherever it runs: what confines it, what did, what will from its next start.

The two provisioners differ in who enforces a profile. That a kernel has one at a time, gets another
by a restart, and falls back where it does not come up under that, is the same for both.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from modelarmor.alerts import Recorder
from modelarmor_jupyter.config import ModelArmor
from modelarmor_jupyter.confinement import Confinement


class Planned(Protocol):
    """How each rule of a profile is enforced."""

    def to_json(self) -> dict[str, Any]:
        """As a JSON object; docs/rest-api.md has its fields."""
        ...


class Confined:
    """What the provisioners of confined kernels have in common."""

    #: what the kernel was refused, through all of its restarts
    recorder: Recorder
    #: when the kernel was last started, in seconds since 1970; 0 before its first start
    started_at: float
    _settings: ModelArmor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        #: everything that confined this kernel so far; the last does now
        self._confinements: list[Confinement] = []
        self._next: Confinement | None = None
        #: the last of them was staged, and nobody has said yet that the kernel came up under it
        self._on_trial = False
        self.started_at = 0.0

    @property
    def settings(self) -> ModelArmor:
        """What the administrator decides."""
        return self._settings

    @property
    def confinement(self) -> Confinement | None:
        """What confines this kernel now; None before its first start."""
        return self._confinements[-1] if self._confinements else None

    def confinement_of(self, seq: int) -> Confinement:
        """What confined this kernel when it was refused what has this number in its record."""
        assert self._confinements
        found = [item for item in self._confinements if item.first <= seq]
        return found[-1] if found else self._confinements[0]

    @property
    def recorded_from(self) -> int:
        """The number from which on the record is about the newest recording.

        Where there was none, about the present profile.
        """
        newest = [item for item in self._confinements if item.recording][-1:]
        return (newest or self._confinements[-1:])[0].first

    @property
    @abstractmethod
    def plan(self) -> Planned | None:
        """How each rule of the profile is enforced; None before the first start."""

    @property
    @abstractmethod
    def places(self) -> dict[str, Path]:
        """What the templates of profiles stand for in this kernel, as `profiles.load` has it."""

    @property
    def not_heard(self) -> str | None:
        """Why alerts of this kernel do not arrive; empty where they do, None where that is sure."""
        return None

    def waits_for(self) -> str:
        """What a kernel waits for that does not run yet, for its user."""
        return "The kernel has not been started yet."

    @abstractmethod
    async def ended_early(self) -> str | None:
        """What is known of the kernel's end, if it has ended; None while it runs."""

    @abstractmethod
    def _confine(self, requested: str, *, recording: bool) -> Confinement:
        """Load what a kernel that asks for this profile runs under."""

    @abstractmethod
    def _check(self, staged: Confinement) -> None:
        """Raise `CannotConfine` where it cannot be enforced: before a kernel is stopped."""

    def stage(self, profile: str | None, *, recording: bool) -> None:
        """Have the next start use this profile; it is loaded, and tried, now.

        Until then nothing changes. A start that fails lets the kernel keep what it had.

        Parameters
        ----------
        profile
            A profile's name, or None for the one that confines the kernel now, read again.
        recording
            Whether what the profile does not name is recorded instead of refused.

        Raises
        ------
        RefusedRequest
            when the administrator does not allow it, or the enforcer has no such thing.
        ProfileError, PolicyError
            when there is no such profile, or it is wrong.
        CannotConfine
            when it cannot be enforced.
        """
        assert self.confinement is not None
        staged = self._confine(profile or self.confinement.profile.name, recording=recording)
        self._check(staged)
        self._next = staged

    def settle(self, *, good: bool) -> None:
        """Say whether the kernel came up under what was staged; where not, it gets back the former.

        The next start does, which the server's restarter makes by itself.
        """
        self._next = None
        if self._on_trial and not good:
            former = self._confinements[-2]
            self._confinements.append(replace(former, first=self.recorder.last + 1))
        self._on_trial = False

    def _adopt_staged(self) -> None:
        self._on_trial = False
        if self._next is not None:
            self._confinements.append(replace(self._next, first=self.recorder.last + 1))
            self._next, self._on_trial = None, True

    def _drop_staged(self) -> None:
        """The start under what was staged failed."""
        if self._on_trial:
            self._confinements.pop()
            self._on_trial = False

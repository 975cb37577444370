"""A profile as KubeArmor's table of a container can hold it.

Two things are known of a pod that are not known of a profile: which file the image's interpreter
really is (KubeArmor matches files, not links to them), and that the table ends at 256 entries.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

from modelarmor.policy.decide import Operation, Table
from modelarmor.policy.lint.limits import MAX_ENTRIES, entry_cost
from modelarmor.policy.model import PathRule, Policy, Rule
from modelarmor.profiles import Profile

_NAMES: Final = ("python", "python3")


class NoInterpreter(ValueError):
    """A profile names the image's interpreter, and nobody has said which file that is."""


def for_image(profile: Profile, prefix: str, interpreter: str) -> Profile:
    """The profile with the interpreter's real file for the links to it.

    Args:
        profile: with its templates filled.
        prefix: the Python environment in the image.
        interpreter: what ``PREFIX/bin/python`` really is there; empty where nobody has said.

    Raises:
        NoInterpreter: a rule of the profile is for the interpreter alone, which would be nobody.
    """
    links = {f"{prefix}/bin/{name}" for name in _NAMES}

    def real(path: str) -> str:
        if path not in links:
            return path
        if not interpreter:
            raise NoInterpreter(
                f"the profile {profile.name} has rules for {path} alone, which is a link in most"
                " images, and KubeArmor matches no links: set c.KernelPods.interpreters to what"
                f" `readlink -f {path}` says in the image"
            )
        return interpreter

    def changed(rules: tuple[PathRule, ...]) -> tuple[PathRule, ...]:
        made = (
            replace(
                rule,
                value=real(rule.value) if rule.match == "path" else rule.value,
                from_source=tuple(dict.fromkeys(map(real, rule.from_source))),
            )
            for rule in rules
        )
        return tuple(dict.fromkeys(made))  # what two links lead to is one rule

    return replace(
        profile,
        policies=tuple(
            replace(
                policy,
                process=changed(policy.process),
                file=changed(policy.file),
            )
            for policy in profile.policies
        ),
    )


def fitted(profile: Profile, more: Sequence[PathRule]) -> Profile:
    """The profile without so many of its Blocks that the rest has room, if that is possible.

    What is left out is what the default posture refuses all the same, since no rule permits
    anything there. Its alert then names the posture instead of the rule. The mildest go first.

    Args:
        profile: with its templates filled.
        more: what else the container's table has to hold.
    """
    beside = Policy("KubeArmorPolicy", "beside", file=tuple(more))

    def cost() -> int:
        return entry_cost([*profile.policies, beside])

    idle = [] if cost() <= MAX_ENTRIES else _idle(profile)
    for rule in sorted(idle, key=lambda rule: rule.outcome.severity):
        if cost() <= MAX_ENTRIES:
            break
        profile = _without(profile, rule)
    return profile


def _idle(profile: Profile) -> list[PathRule]:
    """Blocks whose absence changes no verdict."""
    if profile.posture.file != "block":
        return []
    others = [rule for rule in _path_rules(profile) if rule.outcome.action != "Block"]
    if any(rule.match not in ("path", "directory") for rule in others):
        return []  # what a pattern permits is in no single place
    return [
        rule
        for policy in profile.policies
        for rule in policy.file
        if rule.outcome.action == "Block"
        and rule.match in ("path", "directory")
        and not any(_touch(rule.value, other.value) for other in others)
        and _refused(_without(profile, rule), rule.value)
    ]


def _touch(one: str, other: str) -> bool:
    """Whether a path or directory is the other, or lies in it, or the other way round."""
    return f"{one.rstrip('/')}/".startswith(f"{other.rstrip('/')}/") or (
        f"{other.rstrip('/')}/".startswith(f"{one.rstrip('/')}/")
    )


def _refused(profile: Profile, path: str) -> bool:
    table = Table(profile.policies, profile.posture)
    return table.decide(Operation("read", path.rstrip("/") or "/")).verdict == "block"


def _path_rules(profile: Profile) -> Iterator[PathRule]:
    for policy in profile.policies:
        yield from policy.process
        yield from policy.file


def _without(profile: Profile, rule: Rule) -> Profile:
    return replace(
        profile,
        policies=tuple(
            replace(policy, file=tuple(item for item in policy.file if item is not rule))
            for policy in profile.policies
        ),
    )

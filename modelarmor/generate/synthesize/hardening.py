"""What stays refused whatever is granted: the Block rules of a generated policy.

Those of the profile in which the model was watched, and what only a served model has no use for.
An alert of one of these says what was at stake, which a refusal by posture cannot.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Final, TypeVar

from modelarmor import profiles
from modelarmor.generate.observe.cage import PROFILE
from modelarmor.policy.model import (
    CapabilityRule,
    Outcome,
    PathRule,
    Policy,
    ProtocolRule,
    Rule,
    Selector,
)

_R = TypeVar("_R", bound=Rule)

_SETTINGS: Final = profiles.stand_in("${HOME}/.config/")
_PREFIX: Final = f"modelarmor-{PROFILE}-"

#: by the last part of a policy's name: MITRE ATT&CK, MITRE ATLAS 5.6, NIST 800-53 and the CIS
#: Kubernetes benchmark; kept to what a search by tag needs
TAGS: Final[Mapping[str, tuple[str, ...]]] = {
    "grants": (
        "MITRE", "MITRE_T1059_command_and_scripting_interpreter", "MITRE_T1565_data_manipulation",
        "ATLAS", "ATLAS_AML.T0011.000_unsafe_ai_artifacts", "NIST", "NIST_800-53_AC-6",
        "NIST_800-53_CM-7(5)", "NIST_800-53_SI-7",
    ),
    "credentials": (
        "MITRE", "MITRE_T1552_unsecured_credentials", "MITRE_T1003.008_etc_passwd_and_etc_shadow",
        "ATLAS", "ATLAS_AML.T0055_unsecured_credentials", "NIST", "NIST_800-53_IA-5",
        "CIS", "CIS_Kubernetes_5.1.6",
    ),
    "persistence": (
        "MITRE", "MITRE_T1546_event_triggered_execution", "MITRE_T1053_scheduled_task_job",
        "NIST", "NIST_800-53_CM-3",
    ),
    "administration": (
        "MITRE", "MITRE_T1548_abuse_elevation_control_mechanism", "MITRE_T1611_escape_to_host",
        "ATLAS", "ATLAS_AML.T0105_escape_to_host", "NIST", "NIST_800-53_AC-6", "CIS",
        "CIS_Kubernetes_5.2",
    ),
    "programs": (
        "MITRE", "MITRE_T1059_command_and_scripting_interpreter",
        "MITRE_T1105_ingress_tool_transfer", "MITRE_T1072_software_deployment_tools", "ATLAS",
        "ATLAS_AML.T0072_reverse_shell", "NIST", "NIST_800-53_CM-7", "NIST_800-53_CM-11",
    ),
    "isolation": (
        "MITRE", "MITRE_T1057_process_discovery", "MITRE_T1095_non_application_layer_protocol",
        "MITRE_T1620_reflective_code_loading", "ATLAS", "ATLAS_AML.T0025_exfiltration", "NIST",
        "NIST_800-53_SC-7", "NIST_800-53_SC-39",
    ),
    "mining": (
        "MITRE", "MITRE_T1496_resource_hijacking", "ATLAS", "ATLAS_AML.T0034_cost_harvesting",
        "NIST", "NIST_800-53_SI-3",
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Extra:
    """Rules that a served model's policy has beyond the profile's."""

    suffix: str
    what: str
    #: programs, by name
    programs: tuple[str, ...] = ()
    #: directories in which nothing runs
    no_exec: tuple[str, ...] = ()
    protocols: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ()
    files: tuple[str, ...] = ()


EXTRAS: Final = (
    Extra(
        "programs",
        "tools that install or download",
        programs=("pip", "pip3", "uv", "conda", "git", "scp", "rsync"),
    ),
    Extra(
        "mining",
        "miners, and tools that reconfigure an accelerator",
        programs=("xmrig", "minerd", "nvidia-smi", "nvidia-modprobe", "nvidia-ctk",
                  "nvidia-cuda-mps-control"),
    ),
    # Not scratch or shared memory, where the allow-list and filelessExec refuse to run anything: a
    # rule that blocks running a file keeps it from being renamed too, as caches are when written.
    Extra("mining", "places from which nothing runs", no_exec=("${MODEL}/", "/var/tmp/")),
    Extra("isolation", "protocols that carry data past a firewall", protocols=("raw", "udp")),
    Extra("administration", "what reaches the kernel",
          capabilities=("mknod", "sys_boot", "sys_rawio"),
          files=("/proc/kcore", "/proc/kmsg", "/proc/sysrq-trigger")),
)  # fmt: skip

_MESSAGES: Final = {
    "mining": "A model's computing is its predictions: nothing that was dropped or that mines runs",
}
_SEVERITIES: Final = {"mining": 9}
_WHAT: Final = {
    "credentials": "keys, passwords and tokens",
    "persistence": "what would run later, outside of the sandbox",
    "administration": "what administers the machine",
    "programs": "shells and downloaders",
    "isolation": "other processes and unusual protocols",
}


def policies(name: str, selector: Selector) -> Iterator[tuple[Policy, dict[Rule, str]]]:
    """The Block documents, and what each rule is about.

    Args:
        name: of the grants; each document's has it before its own.
        selector: as the grants'.
    """
    for suffix in ("credentials", "persistence", "administration", "programs", "mining",
                   "isolation"):  # fmt: skip
        base = _of_profile().get(suffix)
        outcome = Outcome(
            "Block",
            _SEVERITIES.get(suffix, base.outcome.severity if base else 0),
            TAGS[suffix],
            _MESSAGES.get(suffix, base.outcome.message if base else ""),
        )
        policy = Policy("KubeArmorPolicy", f"{name}-{suffix}", selector=selector, outcome=outcome)
        about: dict[Rule, str] = {}
        if base is not None:
            policy = _with(policy, base, settings=suffix == "credentials")
            about = dict.fromkeys(_rules(policy), _WHAT[suffix])
        for extra in (extra for extra in EXTRAS if extra.suffix == suffix):
            before = set(_rules(policy))
            policy = _extended(policy, extra)
            about |= dict.fromkeys((r for r in _rules(policy) if r not in before), extra.what)
        yield policy, about


@cache
def _of_profile() -> dict[str, Policy]:
    """The profile's Block documents, by the last part of their names."""
    directory = profiles.find(PROFILE)
    text = (directory / "policy.yaml").read_text(encoding="utf-8")
    found = profiles.unfilled(text, name=f"the profile {PROFILE}")
    return {
        policy.name.removeprefix(_PREFIX): policy
        for policy in found
        if policy.outcome.action == "Block"
    }


def _rules(policy: Policy) -> list[Rule]:
    return [
        *policy.process, *policy.file, *policy.network, *policy.capabilities, *policy.presets,
    ]  # fmt: skip


def _with(policy: Policy, base: Policy, *, settings: bool) -> Policy:
    """``policy`` with the rules of ``base``, which inherit what is said of all of them.

    One rule stands for all that are about settings in the home directory: a served model has none
    there, and KubeArmor has room for 256 entries. It is in the document that has ``settings``.
    """
    outcome = policy.outcome

    def taken(rules: tuple[_R, ...]) -> tuple[_R, ...]:
        told = (replace(rule, outcome=outcome) for rule in rules)
        return tuple(dict.fromkeys(_widened(r) for r in told if settings or not _is_setting(r)))

    return replace(
        policy,
        process=taken(base.process),
        file=taken(base.file),
        network=taken(base.network),
        capabilities=taken(base.capabilities),
        presets=taken(base.presets),
    )


def _is_setting(rule: Rule) -> bool:
    return isinstance(rule, PathRule) and rule.value.startswith(_SETTINGS)


def _widened(rule: _R) -> _R:
    if isinstance(rule, PathRule) and _is_setting(rule):
        return replace(rule, match="directory", value=_SETTINGS, recursive=True)
    return rule


def _extended(policy: Policy, extra: Extra) -> Policy:
    outcome = policy.outcome
    programs = tuple(PathRule(outcome, match="execname", value=name) for name in extra.programs)
    places = tuple(
        PathRule(outcome, match="directory", value=profiles.stand_in(place), recursive=True)
        for place in extra.no_exec
    )
    files = tuple(PathRule(outcome, match="path", value=path) for path in extra.files)
    protocols = tuple(ProtocolRule(outcome, protocol=name) for name in extra.protocols)
    capabilities = tuple(CapabilityRule(outcome, capability=name) for name in extra.capabilities)
    return replace(
        policy,
        process=(*policy.process, *programs, *places),
        file=(*policy.file, *files),
        network=(*policy.network, *protocols),
        capabilities=(*policy.capabilities, *capabilities),
    )

"""Rules that name another thing than their author thinks: symbolic links, scripts, data files.

Facts: KubeArmor matches resolved paths (its FAQ; #984, #2319) and takes as source the executable
that the kernel has mapped, never the link it was started by and never a script.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from modelarmor.policy.lint.finding import (
    EVERYWHERE,
    KUBEARMOR,
    Check,
    Finding,
    Located,
    Subject,
    found,
)
from modelarmor.policy.lint.machine import is_data, is_script, resolve
from modelarmor.policy.model import Policy, Rule

_SYMLINK = Check(
    "MA201", "symlinked-path", "warning", EVERYWHERE,
    "Rules are matched against resolved paths. On a distribution whose /bin, /sbin and /lib are "
    "links into /usr, a rule for /bin/x never matches, and so with every other link. A hard link "
    "is another name for the same file, which a rule for the first name does not match either.",
)  # fmt: skip
_SOURCE_SYMLINK = Check(
    "MA202", "source-is-a-symlink", "error", EVERYWHERE,
    "fromSource is compared with the resolved executable of the process. python, python3 and the "
    "interpreter of a virtual environment are links: the process is /usr/bin/python3.11 or where "
    "they lead.",
)  # fmt: skip
_SOURCE_SCRIPT = Check(
    "MA203", "source-is-a-script", "error", EVERYWHERE,
    "The executable of a process that runs a script is the script's interpreter, so a fromSource "
    "that names the script never matches.",
)  # fmt: skip
_DATA = Check(
    "MA204", "process-rule-for-a-data-file", "error", EVERYWHERE,
    "A process rule decides who may execute a file. Nobody executes /etc/shadow: to keep it from "
    "being read, or to let it be read, takes a file rule.",
)  # fmt: skip
_SLASH = Check(
    "MA205", "directory-without-slash", "error", EVERYWHERE,
    "dir has to end in a slash: the custom resource definition refuses it otherwise, and a rule "
    "that got past it would not match. A path, in turn, must not end in one.",
)  # fmt: skip
_DRIVER = Check(
    "MA206", "pinned-to-a-driver-version", "warning", EVERYWHERE,
    "The name carries the version of a driver or library, and after the next update of the node "
    "the rule matches nothing.",
)  # fmt: skip
_PYTHON = Check(
    "MA207", "pinned-to-a-python-version", "note", EVERYWHERE,
    "The source names one minor version of Python. With the next image a Block no longer applies, "
    "and what an Allow permits is refused.",
)  # fmt: skip
_DEVICE = Check(
    "MA208", "device-sees-open-only", "note", EVERYWHERE,
    "A file rule on a device decides who may open it. What an open descriptor is used for, "
    "ioctl above all, is not looked at.",
)  # fmt: skip
_RESOLVED = Check(
    "MA209", "path-is-not-plain", "error", EVERYWHERE,
    "Resolved paths have no '.', no '..' and no double slash, so a rule with one never matches.",
)  # fmt: skip
_HAS_PARENT = Check(
    "MA210", "source-is-the-parent", "note", KUBEARMOR,
    "The fromSource of a process rule is the parent's executable, which after a fork is the "
    "program that started this one. Where a program replaces itself (exec in a shell, os.execv) "
    "the parent is another than it seems.",
)  # fmt: skip

CHECKS = (
    _SYMLINK, _SOURCE_SYMLINK, _SOURCE_SCRIPT, _DATA, _SLASH, _DRIVER, _PYTHON, _DEVICE, _RESOLVED,
    _HAS_PARENT,
)  # fmt: skip

_MERGED: Final = re.compile(r"/(bin|sbin|lib|lib32|lib64|libx32)(/|$)")
_PYTHON_LINK: Final = re.compile(r"/(python|python[23]|pypy3?)$")
#: names that Debian's alternatives or busybox make links of
_USUAL_LINKS: Final = frozenset({"sh", "awk", "java", "nc", "vi", "editor", "pager"})
_SCRIPT_SUFFIX: Final = re.compile(r"\.(py|pyc|sh|bash|pl|rb|js|mjs|ts|lua|r|R|jl|ipynb)$")
_ENVIRONMENT_SCRIPT: Final = re.compile(r"/(\.?v?env|virtualenv|site)[^/]*/bin/(?!python)[^/]+$")
_USUAL_SCRIPTS: Final = frozenset({
    "pip", "pip3", "jupyter", "jupyter-lab", "jupyter-notebook", "jupyterhub-singleuser",
    "jupyter-labhub", "ipython", "ipython3", "mlflow", "gunicorn", "uvicorn", "torchrun",
    "accelerate", "huggingface-cli", "conda", "vllm", "streamlit", "celery",
})  # fmt: skip
_DATA_SUFFIX: Final = re.compile(
    r"\.(conf|cfg|ini|toml|ya?ml|json|jsonl|xml|txt|md|csv|tsv|log|db|sqlite3?|pem|key|crt|cer|pub"
    r"|env|pkl|pickle|joblib|pt|pth|ckpt|h5|hdf5|keras|onnx|safetensors|gguf|npy|npz|parquet|ipynb"
    r"|so(\.\d+)*|html|pdf|png|jpe?g|zip|tar|gz)$"
)
_DATA_FILE: Final = re.compile(
    r"/etc/(passwd|group|g?shadow|sudoers|hosts|hostname|fstab|resolv\.conf|crypttab|ssh/[^/]+)-?$"
    r"|/\.(ssh|aws|kube|docker|gnupg|azure|config/gcloud)/[^/]+$"
    r"|/\.(bashrc|profile|bash_profile|bash_history|zshrc|netrc|pypirc|npmrc|git-credentials)$"
    r"|^/(proc|sys)/|^/var/log/|^/dev/"
)
_DRIVER_NAME: Final = re.compile(
    r"/lib(cuda|nvidia|nvcuvid|GLX_nvidia|EGL_nvidia|cudadebugger|nvoptix)[^/]*\.so\.\d+\.\d+"
    r"|/nvidia-\d+\.\d+"
)
_PYTHON_VERSION: Final = re.compile(r"/python3\.\d+$")


def check(subject: Subject) -> Iterator[Finding]:
    """Findings on what a rule's path and sources really are."""
    listed = {_listing(item.section, item.rule.value, item.rule) for item in subject.path_rules()}
    for located in subject.path_rules():
        yield from _shape(located)
        yield from _symlink(located, listed)
        yield from _named(located, listed)
    for policy in subject.policies:
        for rule in (*policy.process, *policy.file, *policy.network, *policy.capabilities):
            for source in rule.from_source:
                yield from _source(policy, rule, source)
        for call in policy.syscalls:
            for origin in call.from_source:
                yield from _source(policy, call, origin.path)
        sourced = [rule for rule in policy.process if rule.from_source]
        if sourced:
            yield found(
                _HAS_PARENT, policy, sourced[0],
                "fromSource of a process rule names the parent, not the program that is executed",
                "name the program that starts it; for programs that replace themselves name both",
            )  # fmt: skip


def _listing(section: str, value: str, rule: Rule) -> tuple[str, str, str]:
    """What tells whether the same is said of a path elsewhere."""
    return section, value, rule.outcome.action


def _shape(located: Located) -> Iterator[Finding]:
    policy, rule = located.policy, located.rule
    if rule.match == "directory" and not rule.value.endswith("/"):
        yield found(
            _SLASH, policy, rule,
            f"{rule.value} does not end in a slash, so the cluster refuses the policy",
            f"write {rule.value}/",
        )  # fmt: skip
    if rule.match == "path" and rule.value.endswith("/"):
        yield found(
            _SLASH, policy, rule,
            f"{rule.value} ends in a slash, so it is no path",
            f"write {rule.value.rstrip('/') or '/'}, or move it to matchDirectories",
        )  # fmt: skip
    if rule.match in ("path", "directory"):
        for value in (rule.value, *rule.from_source):
            if re.search(r"//|/\.\.?(/|$)", value):
                yield found(
                    _RESOLVED, policy, rule,
                    f"{value} is not a plain path, so it equals no resolved one",
                    "write the path without '.', '..' and double slashes",
                )  # fmt: skip


def _merged(path: str) -> str:
    """``path`` as it is where /bin, /sbin and /lib are links into /usr."""
    return "/usr" + path if _MERGED.match(path) else path


def _symlink(located: Located, listed: set[tuple[str, str, str]]) -> Iterator[Finding]:
    policy, rule = located.policy, located.rule
    if rule.match not in ("path", "directory"):
        return
    for target, where in (
        (_merged(rule.value), "where /usr is merged"), (resolve(rule.value), "on this machine"),
    ):  # fmt: skip
        if target != rule.value and target.rstrip("/") != rule.value.rstrip("/"):
            # A policy for many distributions lists both names, as it should.
            if _listing(located.section, target, rule) not in listed:
                yield found(
                    _SYMLINK, policy, rule,
                    f"{rule.value} is {target} {where}, and the rule does not match that",
                    f"name {target}, beside {rule.value} where both kinds of image are used",
                )  # fmt: skip
            return


def _source(policy: Policy, rule: Rule, source: str) -> Iterator[Finding]:
    name = source.rsplit("/", 1)[-1]
    target = resolve(source)
    if target == source:
        target = _merged(source)
    if name in _USUAL_SCRIPTS or _ENVIRONMENT_SCRIPT.search(source) or is_script(source):
        yield found(
            _SOURCE_SCRIPT, policy, rule,
            f"source {source} is a script: its process is the interpreter in its first line",
            "name the resolved interpreter, such as /usr/bin/python3.11",
            None if is_script(source) else "warning",
        )  # fmt: skip
    elif _SCRIPT_SUFFIX.search(source):
        yield found(
            _SOURCE_SCRIPT, policy, rule,
            f"source {source} is a script by its name: no process has it as its executable",
            "name the resolved interpreter, such as /usr/bin/python3.11",
        )  # fmt: skip
    elif _PYTHON_LINK.search(source) or target != source or name in _USUAL_LINKS:
        leads = f"a link to {target}" if target != source else "usually a link"
        yield found(
            _SOURCE_SYMLINK, policy, rule,
            f"source {source} is {leads}; a process is known by the resolved file",
            f"name {target}" if target != source else
            "name what `readlink -f` says in the image, such as /usr/bin/python3.11",
            None if target != source or _PYTHON_LINK.search(source) else "warning",
        )  # fmt: skip
    elif _PYTHON_VERSION.search(source):
        yield found(
            _PYTHON, policy, rule,
            f"source {source} holds for this minor version of Python only",
            "write the policy for the image's interpreter, and lint it again when that changes",
        )  # fmt: skip


def _named(located: Located, listed: set[tuple[str, str, str]]) -> Iterator[Finding]:
    policy, rule, section = located.policy, located.rule, located.section
    data = rule.match == "path" and (
        _DATA_FILE.search(rule.value) or _DATA_SUFFIX.search(rule.value) or is_data(rule.value)
    )
    # Listing a file under both sections is thorough, not mistaken.
    covered = _listing("file", rule.value, rule) in listed
    if section == "process" and data and not covered:
        effect = {
            "Block": "nobody is kept from reading or writing it",
            "Allow": "reading it is not allowed by this", "Audit": "reading it raises no alert",
        }[rule.outcome.action]  # fmt: skip
        yield found(
            _DATA, policy, rule,
            f"{rule.value} is a data file, and a process rule is about executing it: {effect}",
            "move the rule to the file section (file.matchPaths)",
        )  # fmt: skip
    if _DRIVER_NAME.search(rule.value):
        yield found(
            _DRIVER, policy, rule,
            f"{rule.value} names one version of a driver",
            "name the directory, or generate the rule from the node's driver when deploying",
        )  # fmt: skip
    if section == "file" and rule.value.startswith("/dev/nvidia"):
        yield found(
            _DEVICE, policy, rule,
            f"the rule decides who opens {rule.value}, not what is done with it (ioctl)",
            "keep the device out of the container where it must not be used",
        )  # fmt: skip

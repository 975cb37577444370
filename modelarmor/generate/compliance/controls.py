"""The table: which control is about what a policy does, what has to hold for it, and who does the
rest.

A control is only listed where a policy, or the evidence that it was made from, does a part of what
the control asks for. Each check is one that `assess` computes; nothing here claims a result. The
wording of *what* is ours: the sources have the controls' own.

Sources, and the versions that the identifiers are from:

* NIST SP 800-53 revision 5.1.1, https://csrc.nist.gov/pubs/sp/800/53/r5/upd1/final
* MITRE ATT&CK, enterprise mitigations, https://attack.mitre.org/mitigations/enterprise/
* MITRE ATLAS 5.6.0, https://atlas.mitre.org/mitigations
* CIS Kubernetes Benchmark 1.10, numbered as in kube-bench's ``cfg/cis-1.10/policies.yaml``
* OWASP Top 10 for LLM Applications 2025, https://genai.owasp.org/llm-top-10/
* OWASP Machine Learning Security Top 10 2023 (a draft),
  https://owasp.org/www-project-machine-learning-security-top-10/
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Framework = Literal[
    "NIST SP 800-53 r5", "MITRE ATT&CK", "MITRE ATLAS", "CIS Kubernetes 1.10",
    "OWASP LLM 2025", "OWASP ML 2023",
]  # fmt: skip
#: who does what a policy cannot
Party = Literal["cluster", "platform", "registry", "reviewer", "model owner", "service"]


@dataclass(frozen=True, slots=True)
class Check:
    """Something that is computed.

    Attributes:
        kind: ``refused``: each of the probes `names` is asked of the policy (`probes.OPERATIONS`);
            ``unreachable``: each of the addresses `names` of the network (`probes.ADDRESSES`);
            ``limited``: each resource `names` has a limit; ``known``: the facts `names`, most of
            them of the evidence (`assess.FACTS`).
        what: what it shows, as an auditor reads it.
        names: of the table that `kind` says.
    """

    kind: Literal["refused", "unreachable", "limited", "known"]
    what: str
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Rest:
    """What a policy does not meet of a control, and who has to."""

    what: str
    by: Party


@dataclass(frozen=True, slots=True)
class Control:
    """One control of one framework."""

    framework: Framework
    id: str
    title: str
    #: the part of it that is looked at here
    what: str
    source: str
    checks: tuple[Check, ...]
    rest: tuple[Rest, ...]


_NIST: Final = "https://csrc.nist.gov/projects/cprt/catalog#/cprt/framework/version/SP_800_53_5_1_1"
_CIS: Final = "https://www.cisecurity.org/benchmark/kubernetes"
_ML: Final = "https://owasp.org/www-project-machine-learning-security-top-10/"


def _attack(identifier: str) -> str:
    return f"https://attack.mitre.org/mitigations/{identifier}/"


def _atlas(identifier: str) -> str:
    return f"https://atlas.mitre.org/mitigations/{identifier}"


# --- checks that several controls share

_DEFAULT = Check(
    "refused", "What no rule names is refused",
    ("program-elsewhere", "read-elsewhere", "write-elsewhere"),
)  # fmt: skip
_PROGRAMS_DEFAULT = Check(
    "refused", "A program that no rule names does not run", ("program-elsewhere",)
)
_INTERPRETERS = Check(
    "refused", "Shells and other interpreters do not run", ("shell-dash", "shell-bash", "perl")
)
_DOWNLOADERS = Check("refused", "Downloaders do not run", ("curl", "wget", "netcat"))
_INSTALLERS = Check("refused", "Package managers do not run", ("apt", "pip", "conda"))
_DROPPED = Check(
    "refused", "A program that the model wrote, or keeps in memory, does not run",
    ("dropped-tmp", "dropped-shm", "dropped-scratch", "memfd"),
)  # fmt: skip
_CREDENTIALS = Check(
    "refused", "Credentials cannot be read",
    ("ssh-key", "cloud-credentials", "kubeconfig", "netrc", "docker-config", "hub-token",
     "service-account-token", "shadow"),
)  # fmt: skip
_OTHERS = Check(
    "refused", "The environment and memory of other processes cannot be read",
    ("other-environment", "other-memory"),
)  # fmt: skip
_MODEL_WRITES = Check("refused", "The model cannot change itself", ("write-model",))
_CODE_WRITES = Check(
    "refused", "Programs and libraries cannot be changed",
    ("write-library", "write-program", "write-preload"),
)  # fmt: skip
_STARTUP = Check(
    "refused", "Nothing can be left to run later", ("write-bashrc", "write-cron", "write-service")
)
_PRIVILEGES = Check(
    "refused", "Capabilities that lead out of a container cannot be used",
    ("cap-sys-admin", "cap-sys-ptrace", "cap-sys-module", "cap-dac-override"),
)  # fmt: skip
_NET_RAW = Check("refused", "NET_RAW cannot be used", ("cap-net-raw",))
_PROTOCOLS = Check(
    "refused", "Sockets of protocols that carry data past filters cannot be made",
    ("icmp", "packet", "sctp"),
)  # fmt: skip
_EGRESS = Check(
    "unreachable", "Addresses outside cannot be reached",
    ("internet-https", "internet-dns", "internet-ipv6"),
)  # fmt: skip
_METADATA = Check("unreachable", "The cloud's metadata service cannot be reached", ("metadata",))
_INSIDE = Check(
    "unreachable", "Private networks and the cluster's API cannot be reached",
    ("private-network", "cluster-api"),
)  # fmt: skip
_LIMITS = Check(
    "limited", "Processors, memory, processes and disk are limited",
    ("cpu", "memory", "pids", "ephemeral-storage"),
)  # fmt: skip
_BYTES = Check(
    "known", "Each file is named with its SHA-256, and the whole by a digest", ("digest",)
)
_SCANNED = Check(
    "known", "Scanners looked into every file, to the end", ("scanned", "nothing-unseen")
)
_NO_GRAVE = Check("known", "No finding is critical or high", ("nothing-grave",))
_RECORDED = Check("known", "A load and predictions were recorded, to the end", ("recorded",))
_REASONED = Check("known", "Each rule says why it is there", ("reasons",))
_NEEDED = Check(
    "known", "The policy refuses nothing that was recorded but what it refuses on purpose",
    ("no-surprise",),
)  # fmt: skip
_TOLD = Check("known", "Each refusal of the checks is an alert with the policy's name", ("alerts",))
_REQUIREMENTS = Check("known", "Requirements are listed, each with its version", ("pinned",))

_ALERTS_GO = Rest("Alerts must be collected, kept and looked at", "platform")
_ENFORCED = Rest("An enforcer must run this policy: check its state, not the document", "platform")
_SIGNED = Rest("The approval must be signed, and checked where the model is served", "registry")

CONTROLS: Final[tuple[Control, ...]] = (
    # --- NIST SP 800-53
    Control(
        "NIST SP 800-53 r5", "AC-3", "Access Enforcement",
        "Access of the model's process to files of the machine and of other processes", _NIST,
        (_DEFAULT, _CREDENTIALS, _OTHERS),
        (_ENFORCED, Rest("Access of people and services to the model", "platform")),
    ),
    Control(
        "NIST SP 800-53 r5", "AC-4", "Information Flow Enforcement",
        "Flows from the model's process to the network", _NIST,
        (_EGRESS, _INSIDE, _METADATA, _PROTOCOLS),
        (Rest("What leaves in answers to those who may ask", "service"),
         Rest("A network plugin that enforces NetworkPolicy", "cluster")),
    ),
    Control(
        "NIST SP 800-53 r5", "AC-6", "Least Privilege",
        "Only what loading and predicting needs is granted", _NIST,
        (_DEFAULT, _PRIVILEGES, _REASONED, _NEEDED),
        (Rest("Grants that were never observed are for the review to judge", "reviewer"),),
    ),
    Control(
        "NIST SP 800-53 r5", "AU-12", "Audit Record Generation",
        "A record of what the model was refused", _NIST, (_TOLD,),
        (_ALERTS_GO, Rest("Records of who used the model, and for what", "service")),
    ),
    Control(
        "NIST SP 800-53 r5", "CM-5", "Access Restrictions for Change",
        "The model's process changes neither programs nor itself", _NIST,
        (_CODE_WRITES, _MODEL_WRITES),
        (Rest("Who may change images, environments and registered models", "platform"),),
    ),
    Control(
        "NIST SP 800-53 r5", "CM-7", "Least Functionality",
        "Programs and protocols that serving a model does not need", _NIST,
        (_INTERPRETERS, _DOWNLOADERS, _INSTALLERS, _PROTOCOLS),
        (Rest("Images without what is not needed", "platform"),),
    ),
    Control(
        "NIST SP 800-53 r5", "CM-7(5)", "Authorized Software - Allow-by-exception",
        "Everything is denied but the programs that a rule names", _NIST,
        (_PROGRAMS_DEFAULT, _DROPPED),
        (Rest("Python code that the interpreter may read runs", "reviewer"),),
    ),
    Control(
        "NIST SP 800-53 r5", "CM-11", "User-installed Software",
        "Nothing is installed by the model", _NIST, (_INSTALLERS, _CODE_WRITES),
        (Rest("The environment must be built beforehand, from sources that are vouched for",
              "platform"),),
    ),
    Control(
        "NIST SP 800-53 r5", "IA-5", "Authenticator Management",
        "Credentials on the machine are protected from the model", _NIST,
        (_CREDENTIALS, _OTHERS, _METADATA),
        (Rest("Secrets must not be in the process's own environment", "platform"),),
    ),
    Control(
        "NIST SP 800-53 r5", "RA-3", "Risk Assessment",
        "What this model could do was looked at before it is used", _NIST,
        (_SCANNED, _RECORDED, _NO_GRAVE), (Rest("Accepting what remains", "reviewer"),),
    ),
    Control(
        "NIST SP 800-53 r5", "SC-5", "Denial-of-service Protection",
        "One model cannot use up the machine", _NIST, (_LIMITS,),
        (Rest("Limits on requests, and on accelerators", "service"),),
    ),
    Control(
        "NIST SP 800-53 r5", "SC-7", "Boundary Protection",
        "A boundary around the model's process", _NIST, (_EGRESS, _INSIDE, _METADATA),
        (Rest("The boundary of the system as a whole", "platform"),),
    ),
    Control(
        "NIST SP 800-53 r5", "SC-7(5)", "Deny by Default - Allow by Exception",
        "Communication that nobody granted is denied", _NIST,
        (_EGRESS, _INSIDE, _METADATA),
        (Rest("Incoming traffic: a NetworkPolicy for ingress", "cluster"),),
    ),
    Control(
        "NIST SP 800-53 r5", "SC-39", "Process Isolation",
        "The model's process is kept apart from others", _NIST, (_OTHERS, _PRIVILEGES),
        (_ENFORCED,),
    ),
    Control(
        "NIST SP 800-53 r5", "SI-3", "Malicious Code Protection",
        "Code in a model is looked for, and held where it is missed", _NIST,
        (_SCANNED, _DROPPED, _INTERPRETERS), (_ALERTS_GO,),
    ),
    Control(
        "NIST SP 800-53 r5", "SI-7", "Software, Firmware, and Information Integrity",
        "The bytes that were reviewed are the bytes that run", _NIST, (_BYTES, _MODEL_WRITES),
        (_SIGNED,),
    ),
    Control(
        "NIST SP 800-53 r5", "SR-4", "Provenance",
        "What the model consists of is written down", _NIST, (_BYTES, _REQUIREMENTS),
        (Rest("Where the model and its data come from", "model owner"),),
    ),
    # --- MITRE ATT&CK
    Control(
        "MITRE ATT&CK", "M1022", "Restrict File and Directory Permissions",
        "Start-up files, programs and libraries", _attack("M1022"), (_STARTUP, _CODE_WRITES), (),
    ),
    Control(
        "MITRE ATT&CK", "M1026", "Privileged Account Management",
        "Privileges of the model's process, even as root", _attack("M1026"), (_PRIVILEGES,),
        (Rest("Pods that do not run as root", "cluster"),),
    ),
    Control(
        "MITRE ATT&CK", "M1037", "Filter Network Traffic", "What leaves the model's process",
        _attack("M1037"), (_EGRESS, _INSIDE, _METADATA, _PROTOCOLS), (),
    ),
    Control(
        "MITRE ATT&CK", "M1038", "Execution Prevention", "Programs other than the interpreter",
        _attack("M1038"), (_PROGRAMS_DEFAULT, _INTERPRETERS, _DOWNLOADERS, _DROPPED), (),
    ),
    Control(
        "MITRE ATT&CK", "M1042", "Disable or Remove Feature or Program",
        "Shells, downloaders and package managers", _attack("M1042"),
        (_INTERPRETERS, _DOWNLOADERS, _INSTALLERS), (),
    ),
    Control(
        "MITRE ATT&CK", "M1043", "Credential Access Protection",
        "Files and processes that hold credentials", _attack("M1043"), (_CREDENTIALS, _OTHERS),
        (Rest("Secrets must not be in the process's own environment", "platform"),),
    ),
    Control(
        "MITRE ATT&CK", "M1048", "Application Isolation and Sandboxing",
        "The model's process as a whole", _attack("M1048"),
        (_DEFAULT, _OTHERS, _PRIVILEGES, _EGRESS), (_ENFORCED,),
    ),
    # --- MITRE ATLAS
    Control(
        "MITRE ATLAS", "AML.M0005", "Control Access to AI Models and Data at Rest",
        "The model as it lies where it is served", _atlas("AML.M0005"), (_MODEL_WRITES,),
        (Rest("Access to the registry and its storage", "registry"),),
    ),
    Control(
        "MITRE ATLAS", "AML.M0011", "Restrict Library Loading",
        "Libraries come from the environment that was built, and stay as they are",
        _atlas("AML.M0011"), (_CODE_WRITES,),
        (Rest("Code and libraries inside of the model are for the review to judge", "reviewer"),),
    ),
    Control(
        "MITRE ATLAS", "AML.M0014", "Verify AI Artifacts",
        "Checksums against which the files can be verified", _atlas("AML.M0014"), (_BYTES,),
        (Rest("The bytes must be verified when the model is served", "registry"),),
    ),
    Control(
        "MITRE ATLAS", "AML.M0016", "Vulnerability Scanning",
        "The model's files were scanned for code and unsafe formats", _atlas("AML.M0016"),
        (_SCANNED, _NO_GRAVE),
        (Rest("Known vulnerabilities of the libraries in its environment", "platform"),),
    ),
    Control(
        "MITRE ATLAS", "AML.M0023", "AI Bill of Materials",
        "Files, formats, digests and requirements", _atlas("AML.M0023"), (_BYTES, _REQUIREMENTS),
        (Rest("Datasets and training", "model owner"),),
    ),
    # --- CIS Kubernetes
    Control(
        "CIS Kubernetes 1.10", "5.1.6",
        "Ensure that Service Account Tokens are only mounted where necessary",
        "A token that is mounted all the same cannot be read", _CIS,
        (Check("refused", "The service account's token cannot be read",
               ("service-account-token",)),),
        (Rest("automountServiceAccountToken: false", "cluster"),),
    ),
    Control(
        "CIS Kubernetes 1.10", "5.2.8",
        "Minimize the admission of containers with the NET_RAW capability",
        "The capability cannot be used", _CIS, (_NET_RAW,),
        (Rest("Admission of pods", "cluster"),),
    ),
    Control(
        "CIS Kubernetes 1.10", "5.2.9",
        "Minimize the admission of containers with added capabilities",
        "Capabilities that were added cannot be used", _CIS, (_PRIVILEGES,),
        (Rest("Admission of pods", "cluster"),),
    ),
    Control(
        "CIS Kubernetes 1.10", "5.3.2", "Ensure that all Namespaces have NetworkPolicies defined",
        "A NetworkPolicy for this workload's egress", _CIS, (_EGRESS, _INSIDE),
        (Rest("Policies for the rest of the namespace, and for ingress", "cluster"),),
    ),
    # --- OWASP
    Control(
        "OWASP LLM 2025", "LLM02", "Sensitive Information Disclosure",
        "Secrets of the machine on which the model runs",
        "https://genai.owasp.org/llmrisk/llm022025-sensitive-information-disclosure/",
        (_CREDENTIALS, _OTHERS, _METADATA),
        (Rest("What the model learnt, and what users tell it", "model owner"),),
    ),
    Control(
        "OWASP LLM 2025", "LLM03", "Supply Chain",
        "A model from elsewhere that carries code",
        "https://genai.owasp.org/llmrisk/llm032025-supply-chain/",
        (_SCANNED, _BYTES, _DEFAULT, _EGRESS),
        (Rest("Provenance and licences", "model owner"), _SIGNED),
    ),
    Control(
        "OWASP LLM 2025", "LLM10", "Unbounded Consumption",
        "What one model can use of the machine",
        "https://genai.owasp.org/llmrisk/llm102025-unbounded-consumption/", (_LIMITS,),
        (Rest("Limits on requests and their size", "service"),),
    ),
    Control(
        "OWASP ML 2023", "ML05", "Model Theft", "A model that sends itself elsewhere", _ML,
        (_EGRESS, _PROTOCOLS),
        (Rest("Extraction by asking", "service"), Rest("Access to the registry", "registry")),
    ),
    Control(
        "OWASP ML 2023", "ML06", "AI Supply Chain Attacks",
        "Code in a model or its libraries", _ML, (_SCANNED, _BYTES, _DEFAULT, _INSTALLERS),
        (Rest("Libraries from sources that are vouched for", "platform"),),
    ),
    Control(
        "OWASP ML 2023", "ML10", "Model Poisoning",
        "A model that is changed where it is served", _ML, (_BYTES, _MODEL_WRITES),
        (Rest("Changes during training", "model owner"), _SIGNED),
    ),
)  # fmt: skip

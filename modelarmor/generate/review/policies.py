"""The policy of a piece of evidence, made ready to be asked: parsed, placed, compiled."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from modelarmor import _yaml
from modelarmor.generate.evidence import Evidence
from modelarmor.policy import document
from modelarmor.policy.decide import Decision, Operation, Table
from modelarmor.policy.model import Policy, Posture
from modelarmor.profiles import TEMPLATES
from modelarmor.sandbox.network import Egress
from modelarmor.sandbox.resources import Resources

# A template becomes an absolute path, ${MODEL} the directory "/${MODEL}", so that a policy that is
# not filled in can be parsed and asked; evidence writes what was recorded in the same manner.
_TEMPLATE: Final = re.compile(r"(?<!/)(\$\{(?:" + "|".join(TEMPLATES) + r")\})")
_INTERNET: Final = ("inet", "inet6")
NETWORK_POLICY: Final = "NetworkPolicy"


def placed(text: str) -> str:
    """`text` with every template made an absolute path."""
    return _TEMPLATE.sub(r"/\1", text)


@dataclass(frozen=True, slots=True)
class Policies:
    """What a policy, its network and its resources say, and what of them could not be read."""

    policies: tuple[Policy, ...]
    posture: Posture
    egress: Egress
    #: a network document is there; without one nothing limits addresses
    has_network: bool
    resources: Resources
    table: Table
    problems: tuple[str, ...]

    @classmethod
    def of(cls, evidence: Evidence) -> Policies:
        """Read what can be read. Evidence is hostile: what is wrong in it becomes a problem."""
        problems: list[str] = []
        policies, wrong = document.inspect(placed(evidence.policy), name="policy")
        problems += [str(problem) for problem in wrong]
        egress, resources = Egress.none(), Resources()
        if not evidence.network:
            egress = Egress.unrestricted()
        else:
            try:
                network = _yaml.loads(evidence.network.encode())
                egress = Egress.from_network_policy(network, name="network")
            except ValueError as error:
                problems.append(f"the network policy cannot be read: {error}")
        try:
            resources = Resources.from_kubernetes(evidence.resources)
        except ValueError as error:
            problems.append(f"the resources cannot be read: {error}")
        posture = Posture()
        return cls(
            tuple(policies), posture, egress, bool(evidence.network), resources,
            Table(policies, posture), tuple(problems),
        )  # fmt: skip

    def decide(self, operation: Operation) -> Decision:
        """What becomes of an operation: by the policy, and for internet sockets by the network."""
        decision = self.table.decide(operation)
        internet = operation.kind == "network" and operation.family in _INTERNET
        if decision.verdict == "allow" and internet and self.egress.is_none:
            why = f"{NETWORK_POLICY} grants no egress: internet sockets do not exist"
            return Decision("block", why=why)
        return decision

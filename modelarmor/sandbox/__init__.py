"""The embedded enforcer: a policy confines a process tree on any Linux machine, without root."""

from modelarmor.sandbox.network import Egress, EgressRule
from modelarmor.sandbox.plan import Plan, PlannedRule
from modelarmor.sandbox.probe import probe
from modelarmor.sandbox.process import CannotConfine, Process, Sandbox, Workload
from modelarmor.sandbox.resources import Resources

__all__ = [
    "CannotConfine",
    "Egress",
    "EgressRule",
    "Plan",
    "PlannedRule",
    "Process",
    "Resources",
    "Sandbox",
    "Workload",
    "probe",
]

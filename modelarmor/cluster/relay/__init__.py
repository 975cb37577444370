"""KubeArmor's alerts: one stream for all workloads of a server, each alert to the one it is of."""

from modelarmor.cluster.relay.connection import Relay, RelayError, RelayRefused
from modelarmor.cluster.relay.feed import Feed, State

__all__ = ["Feed", "Relay", "RelayError", "RelayRefused", "State"]

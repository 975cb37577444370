"""What happened: alerts with KubeArmor's field names, and the record that keeps them."""

from modelarmor.alerts.alert import DENIED, PASSED, Alert
from modelarmor.alerts.recorder import Counts, Page, Recorder

__all__ = ["DENIED", "PASSED", "Alert", "Counts", "Page", "Recorder"]

"""ModelArmor in Jupyter: kernels that run confined, and the record of what they were refused.

The provisioner works without a server (nbclient, papermill), so nothing here imports one until
a server asks for the extension.
"""

from __future__ import annotations

from typing import Any

__all__ = ["_jupyter_server_extension_points"]


def _jupyter_server_extension_points() -> list[dict[str, Any]]:
    """What jupyter_server loads: the extension's application."""
    from modelarmor_jupyter.app import ModelArmorExtension

    return [{"module": "modelarmor_jupyter", "app": ModelArmorExtension}]

"""Run notebooks and models that nobody has vouched for, inside a sandbox that a policy describes.

The rooms of the core, each imported on its own so that this import stays quick and pulls in no
extra: ``policy`` (what a policy says), ``sandbox`` (the local enforcer), ``alerts`` (what
happened) and ``profiles`` (the named profiles).
"""

__version__ = "0.1.0"

__all__ = ["__version__"]

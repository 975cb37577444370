"""Watching a model: loaded and asked in a sandbox where it can harm nothing."""

from modelarmor.generate.observe.session import Model, observe

__all__ = ["Model", "observe"]

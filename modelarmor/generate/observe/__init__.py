"""Watching a model: loaded and asked in a sandbox where it can harm nothing."""

from modelarmor.generate.observe.session import Model, Progress, observe

__all__ = ["Model", "Progress", "observe"]

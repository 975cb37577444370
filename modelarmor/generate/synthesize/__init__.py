"""From evidence to policy: what was seen by what it means, hardened, a reason for each rule."""

from modelarmor.generate.synthesize.build import Draft, labels, synthesize

__all__ = ["Draft", "labels", "synthesize"]

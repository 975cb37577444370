"""How a model bears inputs that were crafted against it.

No policy of an operating system stops a crafted input: the model does what it always does, with a
number that somebody chose. So it is measured (`modelarmor.redteam.measure`), and the measure is
part of the evidence and of the review.
"""

"""From a model to its policy: what the artifact is, what scanners say, what it did when watched.

``artifact`` reads and hashes, ``scan`` looks, ``observe`` runs it where it can harm nothing,
``synthesize`` writes the policy; ``evidence`` is what they hand on, and what a review reads.
"""

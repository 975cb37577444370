"""Serving a model under its policy: resolve once, download once, verify, confine, watch.

`source` finds the model and says whether it may be served, `environment` builds what it needs,
`server` runs and watches it, `endpoint` tells others what happened. ``confined/`` is what runs
inside the sandbox: it is copied there, and imports nothing of ours.
"""

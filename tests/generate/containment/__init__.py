"""Models that carry harm, each tried without the sandbox and under a clean model's policy.

`carriers` are the formats that can carry code, `actions` the harm that is done; both are harmless
by design: whatever they touch lies in one throwaway directory, listens on the loopback, or is
bounded. `arena` is that place, `trial` runs one of them and looks for its effect, ``python -m
tests.generate.containment`` runs all and writes ``docs/containment.md``.
"""

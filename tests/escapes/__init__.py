"""Ways out of the sandbox, each tried for real.

Every attempt is a function in ``kit/`` that returns evidence when it got out. It runs twice in the
same range (``arena.py``): unconfined, where it has to succeed, so that "blocked" means something,
and confined. ``battery.py`` does that for one user; ``python -m tests.escapes`` writes what came
of it to ``docs/escapes.md``; ``test_escapes.py`` asserts it.
"""

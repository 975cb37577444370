"""`python -m modelarmor` is `modelarmor`."""

from modelarmor.cli import main

raise SystemExit(main())

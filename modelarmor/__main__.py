"""The program: what `modelarmor` and `python -m modelarmor` start.

It imports nothing before it can be interrupted, so that Ctrl-C ends it without a traceback while
the commands are still being imported, too.
"""


def main() -> int:
    """Run the command line and return its exit status; 130 is that of an interrupted program."""
    try:
        from modelarmor import cli

        return cli.main()
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    raise SystemExit(main())

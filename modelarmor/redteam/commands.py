"""``modelarmor redteam``."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Final

from modelarmor.generate.commands import Progress, read_evidence, write
from modelarmor.generate.evidence import ATTACKS
from modelarmor.options import real, seconds, whole
from modelarmor.sandbox.resources import Resources

_EXAMPLES: Final = """\
examples:
  modelarmor redteam ./model --data test.npz       arrays x and y; the table on standard output
  modelarmor redteam ./model --data test.csv --label species
                                                   a table with a header
  modelarmor redteam ./model --data test.npz --html robustness.html
                                                   curves and pictures, in one file
  modelarmor redteam ./model --data test.npz --evidence model.evidence.json
                                                   under the model's own policy; the result
                                                   becomes a part of the evidence, for review
  modelarmor redteam ./model --data test.npz --epsilon 0.1 --least-accuracy 0.6
                                                   exit 1 where less is recognised

The model is loaded and attacked in the sandbox. Epsilon is the most that a feature is changed, as a
share of its range. The same seed gives the same result, but for the noise.

Exit status: 0 when the model was measured, and is as robust as was asked for; 1 when it is not;
2 when it could not be measured.
"""
_MOST_SAMPLES: Final = 100_000


def add_parsers(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command; it sets ``run``, which takes the parsed arguments."""
    parser = subparsers.add_parser(
        "redteam",
        help="measure how a model bears inputs that are crafted against it",
        description="Attack a classifier in the sandbox with inputs that are changed a little"
        " (FGSM, PGD, HopSkipJump, and noise as the control), and count what it still recognises.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", metavar="MODEL", help="a file, a directory or an MLflow URI")
    parser.add_argument(
        "--data", metavar="FILE", type=Path, required=True,
        help="labelled inputs: .npz with arrays x and y, or .csv with a header",
    )  # fmt: skip
    parser.add_argument(
        "--label", metavar="COLUMN", default="", help="of a table (default: its last column)"
    )
    parser.add_argument(
        "--range", metavar=("LOW", "HIGH"), type=float, nargs=2,
        help="of an input's values (default: as in the data, of each column of a table)",
    )  # fmt: skip
    parser.add_argument(
        "--attacks", metavar="NAMES", type=_attacks, default=ATTACKS,
        help=f"with commas (default: {','.join(ATTACKS)})",
    )  # fmt: skip
    parser.add_argument(
        "--epsilons", metavar="NUMBERS", type=_epsilons, default=(0.01, 0.03, 0.1, 0.3),
        help="with commas (default: 0.01,0.03,0.1,0.3)",
    )  # fmt: skip
    parser.add_argument(
        "--epsilon",
        metavar="NUMBER",
        type=real(0, 1),
        help="at which --least-accuracy is asked for",
    )
    parser.add_argument(
        "--least-accuracy", metavar="SHARE", type=real(0, 1),
        help="exit 1 where an attack leaves less; needs --epsilon",
    )  # fmt: skip
    parser.add_argument(
        "--samples", metavar="N", type=whole(1, _MOST_SAMPLES), default=200,
        help="how many inputs are drawn (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--nearest", metavar="N", type=whole(1, _MOST_SAMPLES), default=20,
        help="how many of them hopskipjump attacks, which asks thousands of times for each"
        " (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--seed", metavar="N", type=whole(0, (1 << 32) - 1), default=0, help="(default: 0)"
    )
    parser.add_argument(
        "--evidence", metavar="FILE", type=Path,
        help="of the model: its policy confines it, and the result is written into it (default:"
        " the profile untrusted-model confines it)",
    )  # fmt: skip
    parser.add_argument(
        "--timeout", metavar="SECONDS", type=seconds, default=600.0,
        help="for all of it (default: %(default)g)",
    )  # fmt: skip
    parser.add_argument(
        "--memory", metavar="QUANTITY", type=_memory, default="4Gi",
        help="that the model and the attack may take (default: 4Gi)",
    )  # fmt: skip
    parser.add_argument(
        "--python", metavar="FILE", type=Path,
        help="the interpreter of the environment that has the model's library and the attacks'"
        " (default: the one that runs this command)",
    )  # fmt: skip
    parser.add_argument("--format", choices=("text", "json", "html"), default="text")
    parser.add_argument(
        "-o", "--output", metavar="FILE", help="write there (default: - for stdout)"
    )
    parser.add_argument("--html", metavar="FILE", help="write the page there as well")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    if (arguments.least_accuracy is None) != (arguments.epsilon is None):
        raise ValueError("give --epsilon and --least-accuracy together")
    try:
        import numpy  # noqa: F401
    except ImportError:
        raise ValueError("this needs numpy; run pip install 'modelarmor[redteam]'") from None
    from modelarmor.redteam import data, render
    from modelarmor.redteam.measure import Options, measure

    evidence = read_evidence(arguments.evidence) if arguments.evidence else None
    given = data.read(
        arguments.data,
        samples=arguments.samples,
        seed=arguments.seed,
        label=arguments.label,
        limits=tuple(arguments.range) if arguments.range else None,
    )
    options = Options(
        attacks=arguments.attacks,
        epsilons=arguments.epsilons,
        nearest=arguments.nearest,
        seed=arguments.seed,
        seconds=arguments.timeout,
        memory=arguments.memory,
        prefix=arguments.python.absolute().parent.parent if arguments.python else Path(sys.prefix),
        least_accuracy=arguments.least_accuracy,
        epsilon=arguments.epsilon,
    )
    with Progress(sys.stderr, quiet=arguments.quiet) as progress:
        report = measure(arguments.model, given, options, evidence=evidence, progress=progress)
    shown = {"text": render.as_text, "json": render.as_json, "html": render.as_html}
    if evidence is not None:
        told = replace(evidence, robustness=report.robustness)
        write(told.dumps(), str(arguments.evidence))
    if arguments.html:
        write(render.as_html(report), arguments.html)
    write(shown[arguments.format](report), arguments.output)
    if arguments.epsilon is None:
        return 0
    return int(bool(report.robustness.shortfall(arguments.least_accuracy, arguments.epsilon)))


# --- reading options


def _attacks(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(text.split(",")))
    if unknown := [name for name in names if name not in ATTACKS]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(ATTACKS)}")
    return names


def _epsilons(text: str) -> tuple[float, ...]:
    found = tuple(map(real(0, 1), text.split(",")))
    if len(found) > 20 or 0 in found:
        raise argparse.ArgumentTypeError("give up to 20 shares above 0")
    return found


def _memory(text: str) -> int:
    try:
        memory = Resources.from_kubernetes({"memory": text}).memory
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    assert memory is not None
    return memory

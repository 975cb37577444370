"""``modelarmor generate``, ``modelarmor review`` and ``modelarmor compliance``."""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TextIO

from modelarmor import profiles
from modelarmor.generate.evidence import MAX_BYTES, SEVERITIES, Evidence, EvidenceError
from modelarmor.options import seconds, whole
from modelarmor.policy import document
from modelarmor.policy.baseline import baseline_rules
from modelarmor.policy.model import Policy
from modelarmor.replacing import replacing

_REVIEW_EXAMPLES: Final = """\
examples:
  modelarmor review policy.evidence.json           what waits for a decision, on the terminal
  modelarmor review ./model                        the same, after generating the evidence now
  modelarmor review models:/fraud/4 --against models:/fraud/3
                                                   and what changed since what was approved
  modelarmor review v4.json --format html -o review.html
                                                   one page to read, print and keep
  modelarmor review v4.json --format json | jq .points

Exit status: 0 when nothing of the severity of --fail-on or worse waits for a decision, 1 when
something does, 2 for a mistake in the command line or a file.
"""
_COMPLIANCE_EXAMPLES: Final = """\
examples:
  modelarmor compliance policy.evidence.json       NIST, ATT&CK, ATLAS, CIS and OWASP, computed
  modelarmor compliance v4.json --format html -o compliance.html
  modelarmor compliance policy.yaml --network network.yaml --model /opt/model
                                                   of a bare policy, without evidence
  modelarmor compliance a.json b.json --format json

Exit status: 0 when the evidence has no finding of the severity of --fail-on or worse, 1 when it
has one, and with --strict where a check fails; 2 for a mistake in the command line or a file. The
report is written all the same. A bare policy has no findings.
"""
_GENERATE_EXAMPLES: Final = """\
examples:
  modelarmor generate ./model                      the policy on standard output
  modelarmor generate ./model -o policy.yaml       and policy.evidence.json, policy.network.yaml
                                                   beside it
  modelarmor generate ./model -o policy.yaml --force
                                                   again, replacing what was made before
  modelarmor generate models:/iris/4 -o iris.yaml  a model of an MLflow registry
  modelarmor generate model.pkl --no-run           look only: no code of the model runs
  modelarmor generate ./model --input rows.json    ask it this, as its scoring server is asked:
                                                   {"inputs": [[1, 2]]}, {"dataframe_split": …}
  modelarmor generate ./model --python ./env/bin/python
                                                   with the libraries of another environment
  modelarmor generate ./model -o policy.yaml --fill MODEL=/opt/model --fill PREFIX=/opt/env
                                                   for a container image, ready for kubectl apply
  modelarmor generate ./model --evidence - --format json > evidence.json
  modelarmor generate ./model -o policy.yaml --fail-on critical
                                                   for a pipeline that tolerates high findings

The model is loaded and asked in the sandbox, with nothing real to steal. The policy has templates
(${MODEL}, ${PREFIX}, ${HOME}, ${TMP}), which are filled in where it is applied, or by --fill.

Exit status: 0 when a policy was made and nothing of the severity of --fail-on or worse was found,
1 when a policy was made and something was found, 2 when none was made.
"""
#: the templates that a generated policy may have
_PLACES: Final = ("MODEL", "PREFIX", "HOME", "TMP")
_MOST_PREDICTIONS: Final = 10_000
_LARGEST_INPUT: Final = 16 << 20  # bytes
_FAIL_ON: Final = (*SEVERITIES, "never")


def add_parsers(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands of this room; each sets ``run``, which takes the parsed arguments."""
    _add_generate(subparsers)
    _add_review(subparsers)
    _add_compliance(subparsers)


# --- generate


def _add_generate(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "generate",
        help="make a policy for a model, from evidence",
        description="Look into a model, load it and ask it in the sandbox, and write the policy"
        " that it needs: what loading and predicting touch, and nothing else.",
        epilog=_GENERATE_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", metavar="MODEL", help="a file, a directory or an MLflow URI")
    parser.add_argument(
        "-o", "--output", metavar="FILE",
        help="write the policy there, and evidence and network policy beside it"
        " (default: - for stdout, and nothing beside it)",
    )  # fmt: skip
    parser.add_argument(
        "-f", "--force", action="store_true", help="replace files that are there already"
    )
    parser.add_argument("--evidence", metavar="FILE", help="write the evidence there")
    parser.add_argument("--network", metavar="FILE", help="write the NetworkPolicy there")
    parser.add_argument(
        "--no-run", action="store_true",
        help="do not load the model: the policy is then what every model of its kind needs",
    )  # fmt: skip
    parser.add_argument(
        "--input", metavar="FILE", type=Path,
        help="JSON to ask the model, in the words of MLflow's scoring server (default: its input"
        " example, or one made from its signature or shape)",
    )  # fmt: skip
    parser.add_argument(
        "--predictions", metavar="N", type=whole(1, _MOST_PREDICTIONS), default=3,
        help="how often it is asked (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--timeout", metavar="SECONDS", type=seconds, default=300.0,
        help="for running it; what was seen until then counts (default: %(default)g)",
    )  # fmt: skip
    parser.add_argument(
        "--python", metavar="FILE", type=Path,
        help="the interpreter of the environment that has the model's libraries (default: the one"
        " that runs this command)",
    )  # fmt: skip
    parser.add_argument(
        "--gpu", action=argparse.BooleanOptionalAction,
        help="let the interpreter use accelerators (default: if the model looked for one)",
    )  # fmt: skip
    parser.add_argument(
        "--fill", metavar="NAME=DIR", type=_place, action="append", default=[],
        help="write the policy with its templates filled in: MODEL, PREFIX, HOME, TMP; what is not"
        " named is that of this machine (can be repeated; the evidence keeps the templates)",
    )  # fmt: skip
    parser.add_argument(
        "--format", choices=("yaml", "json"), default="yaml",
        help="of what -o or stdout gets: the policy as yaml, or all evidence as json"
        " (default: yaml)",
    )  # fmt: skip
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress and no summary")
    _add_fail_on(parser)
    parser.set_defaults(run=_run_generate)


def _place(text: str) -> tuple[str, Path]:
    name, _, directory = text.partition("=")
    if name not in _PLACES or not Path(directory).is_absolute():
        raise argparse.ArgumentTypeError(
            f"{text!r}: give NAME=/DIRECTORY, with a NAME of {', '.join(_PLACES)}"
        )
    return name.lower(), Path(directory)


def _run_generate(arguments: argparse.Namespace) -> int:
    outputs = _outputs(arguments)
    places = _places(arguments)
    evidence = _generate(
        arguments.model,
        quiet=arguments.quiet,
        run=not arguments.no_run,
        input=_input(arguments.input),
        predictions=arguments.predictions,
        timeout=arguments.timeout,
        prefix=_prefix(arguments.python),
        gpu=arguments.gpu,
    )
    policy = _filled(evidence.policy, places) if places else evidence.policy
    texts = {
        "policy": evidence.dumps() if arguments.format == "json" else policy,
        "evidence": evidence.dumps(),
        "network": evidence.network,
    }
    for name, output in outputs.items():
        if texts[name]:
            write(texts[name], output)
    if not arguments.quiet:
        written = {name: out for name, out in outputs.items() if texts[name] and out != "-"}
        print(summary(evidence, written), file=sys.stderr)
    return int(fails([finding.severity for finding in evidence.findings], arguments.fail_on))


def _outputs(arguments: argparse.Namespace) -> dict[str, str]:
    """What is written where; a policy in a file has its evidence and network beside it."""
    output = arguments.output or "-"
    outputs = {"policy": output}
    stem = None if output == "-" else Path(output)
    for name, suffix in (("evidence", ".evidence.json"), ("network", ".network.yaml")):
        if given := getattr(arguments, name):
            outputs[name] = given
        elif stem is not None and not (name == "evidence" and arguments.format == "json"):
            outputs[name] = str(stem.with_name(stem.stem + suffix))
    if sum(out == "-" for out in outputs.values()) > 1:
        raise ValueError("only one of -o, --evidence and --network can go to standard output")
    files = [str(Path(out).absolute()) for out in outputs.values() if out != "-"]
    if len(set(files)) < len(files):
        raise ValueError("-o, --evidence and --network name the same file; give each its own")
    for file in files:  # before the work, which takes minutes, not after it
        if not Path(file).parent.is_dir():
            raise ValueError(f"{file}: there is no directory {Path(file).parent}; make it first")
        # A policy that somebody has reviewed or changed by hand is not to be lost by a slip. What
        # is no regular file, such as /dev/null, cannot be.
        if Path(file).is_file() and not arguments.force:
            raise ValueError(f"{file}: exists; name another file, or replace it with --force")
    return outputs


def _places(arguments: argparse.Namespace) -> dict[str, Path]:
    """Which directory each template stands for; none where the templates stay."""
    given: dict[str, Path] = dict(arguments.fill)
    if not given:
        return {}
    if arguments.format == "json":
        raise ValueError("--fill is about the policy, and evidence keeps its templates; leave one")
    if "model" not in given:
        raise ValueError("--fill: name the model's directory too, as in --fill MODEL=/opt/model")
    here = {"prefix": Path(sys.prefix), "home": Path.home(), "tmp": Path(tempfile.gettempdir())}
    return {**here, **given}


def _filled(policy: str, places: Mapping[str, Path]) -> str:
    """The policy for a place, with what KubeArmor's posture would refuse to every program there."""
    filled = profiles.fill(
        policy,
        name="<generated policy>",
        model=places["model"],
        prefix=places["prefix"],
        home=places["home"],
        tmp=places["tmp"],
        workspace=places["tmp"],  # which a generated policy does not name
    )
    return document.dump([*filled, *_needs(filled)])


def _needs(policies: Sequence[Policy]) -> Iterator[Policy]:
    """A policy of its own, since a message or severity of the others would be inherited."""
    if rules := baseline_rules(policies):
        first = policies[0]
        yield Policy(
            first.kind, f"{first.name}-needs", namespace=first.namespace, selector=first.selector,
            file=rules,
        )  # fmt: skip


def _input(file: Path | None) -> Any:
    """What to ask the model, from a file."""
    if file is None:
        return None
    with file.open("rb") as stream:
        data = stream.read(_LARGEST_INPUT + 1)
    if len(data) > _LARGEST_INPUT:
        raise ValueError(f"--input {file}: more than {_LARGEST_INPUT} bytes; a few rows will do")
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"--input {file}: this is no JSON: {error}") from None


def _prefix(python: Path | None) -> Path | None:
    """The environment of an interpreter: a virtual one's is a link, and lies in its ``bin``."""
    if python is None:
        return None
    python = Path(shutil.which(python) or python).absolute()
    if not os.access(python, os.X_OK) or python.parent.name != "bin":
        raise ValueError(
            f"--python {python}: give the interpreter of an environment, ENV/bin/python"
        )
    return python.parent.parent


def summary(evidence: Evidence, written: Mapping[str, str]) -> str:
    """What was made of a model, in a few lines.

    Args:
        evidence: of the model.
        written: what was written -> where.
    """
    from modelarmor.generate.review import review
    from modelarmor.generate.review.words import number, size
    from modelarmor.visible import visible

    artifact, made = evidence.artifact, review(evidence)
    counts = Counter(finding.severity for finding in evidence.findings)
    found = ", ".join(f"{counts[s]} {s}" for s in SEVERITIES if counts[s])
    refused = Counter(refusal.expected for refusal in made.refusals)
    rows = [
        ("model", f"{visible(artifact.source)}"),
        ("flavour", visible(artifact.flavour) + (f", by {visible(artifact.loader)}"
                                                 if artifact.loader else "")),
        ("files", f"{len(artifact.files)}, {size(artifact.size)}, {visible(artifact.digest)}"),
        ("findings", found or "none"),
        ("recorded", _recorded(evidence)),
        ("rules", f"{len(made.reasons)}, of them"
                  f" {sum(why.action == 'Allow' for why in made.reasons)} grants"),
        ("refused", f"{number(refused[True], 'expected denial')}"
                    + (f"; {number(refused[False], 'recorded operation')} that nobody expected"
                       if refused[False] else "")),
        *((name, visible(where)) for name, where in written.items()),
    ]  # fmt: skip
    lines = [f"  {name:<9} {text}" for name, text in rows]
    if "evidence" in written:
        lines.append(f"next: modelarmor review {visible(written['evidence'])}")
    return "\n".join(lines)


def _recorded(evidence: Evidence) -> str:
    observation = evidence.observation
    if observation is None:
        return "no: the model was not run"
    said = ", ".join(observation.completed) or "nothing came to its end"
    said += f"; {observation.predictions} predictions"
    return said + (f"; failed: {observation.error[:200]!a}" if observation.error else "")


def _generate(source: str, *, quiet: bool = False, **options: Any) -> Evidence:
    from modelarmor.generate.pipeline import generate

    with Progress(sys.stderr, quiet=quiet) as progress:
        return generate(source, progress=progress, **options)


class Progress:
    """What is being done: one line that changes on a terminal, a line each elsewhere."""

    def __init__(self, stream: TextIO, *, quiet: bool = False) -> None:
        self._stream, self._quiet = stream, quiet
        self._terminal = stream.isatty()
        self._started = time.monotonic()
        self._last = ""

    def __call__(self, what: str) -> None:
        """Say what is being done (`modelarmor.generate.artifact.Progress`), in a model's words."""
        from modelarmor.visible import visible

        if self._quiet or what == self._last:
            return
        self._last = what
        line = f"{time.monotonic() - self._started:5.1f} s  {visible(what, 160)}"
        if self._terminal:
            width = shutil.get_terminal_size().columns - 1
            self._stream.write(f"\r\033[K{line[:width]}")
        else:
            self._stream.write(f"modelarmor: {line.strip()}\n")
        self._stream.flush()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._terminal and self._last:
            self._stream.write("\r\033[K")
            self._stream.flush()


# --- review


def _add_review(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "review",
        help="what a reviewer needs before a model is promoted",
        description="Show what is known of a model and what its policy permits, in words: findings"
        " and who has them, what was never looked at, what is granted and was never needed, what"
        " changed since the version that was approved, and what the policy would refuse of what"
        " was recorded.",
        epilog=_REVIEW_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "subject", metavar="EVIDENCE|MODEL",
        help="evidence that `modelarmor generate` wrote; a version of a registry that has evidence;"
        " or another model, whose evidence is made first",
    )  # fmt: skip
    parser.add_argument(
        "--against", metavar="EVIDENCE|MODEL", help="the version that was approved before"
    )
    parser.add_argument("--format", choices=("text", "json", "html"), default="text")
    parser.add_argument(
        "-o", "--output", metavar="FILE", help="write there (default: - for stdout)"
    )
    _add_fail_on(parser)
    parser.set_defaults(run=_review)


def _add_fail_on(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--fail-on", choices=_FAIL_ON, default="high", metavar="SEVERITY",
        help=f"exit 1 from this severity on: {', '.join(_FAIL_ON)} (default: high)",
    )  # fmt: skip


def _review(arguments: argparse.Namespace) -> int:
    from modelarmor.generate.review import as_html, as_json, as_text, review

    evidence = _evidence_of(arguments.subject)
    against = _evidence_of(arguments.against) if arguments.against else None
    made = review(evidence, against)
    if arguments.format == "text":
        text = as_text(made, colour=_colour(arguments.output))
    else:
        text = as_html(made) if arguments.format == "html" else as_json(made)
    write(text, arguments.output)
    return int(fails([made.worst] if made.worst else [], arguments.fail_on))


def fails(severities: Sequence[str], threshold: str) -> bool:
    """Whether any of `severities` is `threshold` or worse; ``never`` is worse than all."""
    if threshold == "never":
        return False
    order: list[str] = list(SEVERITIES)
    return any(order.index(severity) <= order.index(threshold) for severity in severities)


def _evidence_of(subject: str) -> Evidence:
    """The evidence that a file holds, that a registry has, or that of the model that it names."""
    path = Path(subject)
    if _is_evidence(path):
        return read_evidence(path)
    return _registered(subject) or _generate(subject)


def _registered(uri: str) -> Evidence | None:
    """What the registry has of a version, where ModelArmor's plugin keeps it."""
    if not uri.startswith("models:/"):
        return None
    try:
        from modelarmor_mlflow import commands, deciding
    except ImportError:  # the core alone is installed
        return None
    with commands.mlflow_errors():
        try:
            evidence: Evidence = deciding.Case.open(uri).evidence
        except deciding.NothingToReviewError as why:
            print(f"modelarmor: {why}; the model is looked at now", file=sys.stderr)
            return None
    return evidence


def _is_evidence(path: Path) -> bool:
    """Whether a file says of itself that it is evidence; an XGBoost model is JSON too."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        # Keys are sorted, and "artifact" is the first.
        return re.match(rb'\s*\{\s*"(artifact|format)"\s*:', file.read(4096)) is not None


def read_evidence(path: Path) -> Evidence:
    """Read an evidence document.

    Raises:
        EvidenceError: it is none; names the file.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    try:
        return Evidence.loads(data)
    except EvidenceError as error:
        raise EvidenceError(f"{path}: {error}") from None


# --- compliance


def _add_compliance(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "compliance",
        help="which controls a policy and its evidence meet a part of",
        description="Map a policy and its evidence to controls of NIST SP 800-53, MITRE ATT&CK and"
        " ATLAS, the CIS Kubernetes Benchmark and OWASP. Every line is computed: probes are put to"
        " the policy, addresses to the network policy, facts are read from the evidence. What a"
        " policy does not meet stands beside it, with who has to.",
        epilog=_COMPLIANCE_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "subjects", nargs="+", metavar="EVIDENCE|POLICY", type=Path,
        help="evidence (JSON), or a policy (YAML file or directory), of which less is known",
    )  # fmt: skip
    parser.add_argument(
        "--network", metavar="FILE", type=Path, help="the NetworkPolicy beside a bare policy"
    )
    for name, what in (
        ("model", "the model's directory"), ("prefix", "the Python environment"),
        ("home", "the user's home"), ("tmp", "scratch"),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", metavar="DIR", help=f"{what}, as a bare policy means it")
    parser.add_argument("--format", choices=("text", "json", "html"), default="text")
    parser.add_argument(
        "-o", "--output", metavar="FILE", help="write there (default: - for stdout)"
    )
    parser.add_argument("--strict", action="store_true", help="exit 1 where a check fails too")
    _add_fail_on(parser)
    parser.set_defaults(run=_compliance)


def _compliance(arguments: argparse.Namespace) -> int:
    from modelarmor.generate.compliance import as_html, as_json, as_text, assess, subjects

    bare = [path for path in arguments.subjects if not _is_evidence(path)]
    evidence = [read_evidence(path) for path in arguments.subjects if path not in bare]
    found = [subjects.of_evidence(each) for each in evidence]
    if bare:
        places = {
            name.upper(): getattr(arguments, name)
            for name in ("model", "prefix", "home", "tmp")
            if getattr(arguments, name)
        }
        found.append(subjects.of_policies(bare, network=arguments.network, places=places))
    reports = [assess(subject) for subject in found]
    if arguments.format == "json":
        text = as_json(reports)
    elif arguments.format == "html":
        if len(reports) > 1:
            raise ValueError("--format html: one page is about one subject; name one at a time")
        text = as_html(reports[0])
    else:
        colour = _colour(arguments.output)
        text = "\n".join(as_text(report, colour=colour) for report in reports)
    write(text, arguments.output)
    failing = any(report.count("partly") or report.count("not met") for report in reports)
    severities = [finding.severity for each in evidence for finding in each.findings]
    return int(fails(severities, arguments.fail_on) or (arguments.strict and failing))


# --- common


def _colour(output: str | None) -> bool:
    return output in (None, "-") and sys.stdout.isatty() and "NO_COLOR" not in os.environ


def write(text: str, output: str | None) -> None:
    """Write a whole file or nothing: what was there stays until all of the new one is.

    Args:
        text: what to write.
        output: a file; ``-`` or None is standard output.
    """
    if output in (None, "-"):
        # Names may hold what the terminal's encoding has not.
        sys.stdout.write(text.encode(sys.stdout.encoding, "backslashreplace").decode(
            sys.stdout.encoding))  # fmt: skip
        return
    assert output is not None
    with replacing(Path(output)) as unfinished:
        unfinished.write_text(text, encoding="utf-8")

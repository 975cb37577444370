"""``modelarmor deploy`` and ``modelarmor doctor --cluster``."""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from modelarmor.options import seconds, whole

if TYPE_CHECKING:
    from modelarmor.cluster.models import Guard
    from modelarmor.generate.evidence import Evidence

_EXAMPLES: Final = """\
examples:
  modelarmor deploy models:/iris@champion --image registry.example/iris@sha256:... \\
      --claim models:iris/3 -n models     serve it, and wait until it does
  modelarmor deploy models:/iris@champion --image registry.example/iris@sha256:... \\
      --claim models:iris/3 --dry-run=client -o yaml | kubectl apply -f -
                                          an approved version, under its policy
  modelarmor deploy ./model --evidence model.evidence.json --name iris --unreviewed \\
      --image registry.example/iris@sha256:... --claim models --dry-run=client -o yaml
                                          whatever that evidence is about
  modelarmor deploy llm --nim --image nvcr.io/nim/...@sha256:... --claim weights \\
      --dry-run=client -o yaml            a container of NVIDIA NIM, under policies for it

Policies are applied before the pods that they confine, and deleted when the last of those has gone.
Where the new pods do not come up in time, what was there before is applied again.

With --dry-run=client nothing is sent to a cluster: what is printed is for kubectl, or for the
repository that Argo CD or Flux reads. Apply the new revision beside the last one then, and remove
that one's policy only when its pods are gone.

Exit status: 0 when it serves or was written, 1 when the model may not be deployed or its pods did
not come up, 2 for a mistake in the command line or a file.
"""
_NOT_NAME: Final = re.compile(r"[^a-z0-9]+")


def add_parsers(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``deploy``, which sets ``run``, and give ``doctor`` its options for a cluster."""
    _extend_doctor(subparsers.choices["doctor"])
    parser = subparsers.add_parser(
        "deploy",
        help="serve a model under its policy on Kubernetes",
        description="Apply, or write, a Deployment or KServe's InferenceService that serves a model"
        " under its approved policy, with that policy, a NetworkPolicy, a Service and an"
        " autoscaler.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", metavar="URI",
                        help="models:/NAME/VERSION, models:/NAME@ALIAS, or with --unreviewed"
                        " whatever else MLflow serves")  # fmt: skip
    parser.add_argument("--image", required=True,
                        help="has MLflow, uvicorn and what the model needs; name it by its"
                        " digest")  # fmt: skip
    parser.add_argument("--name", help="of the Deployment (default: the model's)")
    parser.add_argument("-n", "--namespace", default="default", help="(default: %(default)s)")
    parser.add_argument("--prefix", default="/usr/local", metavar="DIR",
                        help="Python environment in the image (default: %(default)s)")  # fmt: skip
    parser.add_argument("--interpreter", default="/usr/local/bin/python3.11", metavar="FILE",
                        help="what PREFIX/bin/python really is in the image: KubeArmor matches no"
                        " links (default: %(default)s)")  # fmt: skip
    parser.add_argument("--claim", default="", metavar="NAME[:PATH]",
                        help="a PersistentVolumeClaim with the model's files")  # fmt: skip
    parser.add_argument("--tracking-uri", default="", metavar="URL",
                        help="of the MLflow server to fetch the files from, instead")  # fmt: skip
    parser.add_argument("--fetch-secret", default="", metavar="NAME",
                        help="a Secret with the variables for fetching")  # fmt: skip
    parser.add_argument("--fetch-egress", action="append", default=[], metavar="CIDR:PORT",
                        help="what the pod may reach for fetching; may be repeated")  # fmt: skip
    parser.add_argument("--replicas", type=whole(1, 10_000), default=1, metavar="N",
                        help="pods at least (default: %(default)s)")  # fmt: skip
    parser.add_argument("--max-replicas", type=whole(1, 10_000), default=4, metavar="N",
                        help="pods at most (default: %(default)s)")  # fmt: skip
    parser.add_argument("--gpus", type=whole(0, 1000), default=0, metavar="N",
                        help="of each pod")  # fmt: skip
    parser.add_argument("--nim", action="store_true",
                        help="the image is NVIDIA NIM's, which brings its own server; URI is a"
                        " name, and --claim has the weights")  # fmt: skip
    parser.add_argument("--pull-secret", default="", metavar="NAME",
                        help="a Secret for the image's registry")  # fmt: skip
    parser.add_argument("--guard", type=Path, metavar="FILE",
                        help="limits on requests (see `modelarmor guard`); without it those of the"
                        " model's signature")  # fmt: skip
    parser.add_argument("--no-guard", action="store_true", help="let every request through")
    parser.add_argument("--kserve", action="store_true", help="write an InferenceService")
    parser.add_argument("--unreviewed", action="store_true", help="deploy what nobody approved")
    parser.add_argument("--evidence", type=Path, metavar="FILE",
                        help="with --unreviewed: of `modelarmor generate`")  # fmt: skip
    parser.add_argument("--config", type=Path, metavar="FILE",
                        help="whose approvals count (default: $MODELARMOR_REGISTRY_CONFIG, or"
                        " ~/.config/modelarmor/registry.yaml)")  # fmt: skip
    parser.add_argument("--kubeconfig", default="", metavar="FILE", help="instead of kubectl's")
    parser.add_argument("--context", default="", metavar="NAME", help="of the kubeconfig")
    parser.add_argument("--timeout", type=seconds, default=900.0, metavar="SECONDS",
                        help="within which the new pods serve and the old ones are gone (default:"
                        " %(default)g)")  # fmt: skip
    parser.add_argument("--dry-run", choices=("client",),
                        help="client: print, and send nothing")  # fmt: skip
    parser.add_argument("-o", "--output", choices=("yaml",), default="yaml",
                        help="with --dry-run (default: %(default)s)")  # fmt: skip
    parser.set_defaults(run=_deploy)


def _extend_doctor(parser: argparse.ArgumentParser) -> None:
    """The same question about a cluster is the same command."""
    here = parser.get_default("run")
    parser.add_argument("--cluster", action="store_true",
                        help="what the cluster of the kubeconfig can enforce, instead of this"
                        " machine; 1 when a link is missing")  # fmt: skip
    parser.add_argument("--namespace", default="default", metavar="NAME",
                        help="with --cluster: of the pods (default: %(default)s)")  # fmt: skip
    parser.add_argument("--recording", action="store_true",
                        help="with --cluster: the namespace is that of record mode, where the"
                        " posture has to be audit")  # fmt: skip
    parser.add_argument("--kubeconfig", default="", metavar="FILE",
                        help="with --cluster: instead of kubectl's")  # fmt: skip
    parser.set_defaults(run=lambda told: _doctor(told) if told.cluster else here(told))


def _doctor(arguments: argparse.Namespace) -> int:
    try:
        from modelarmor.cluster import doctor
        from modelarmor.cluster.client import Cluster, ClusterError
    except ImportError as error:
        raise ValueError(f"--cluster needs modelarmor[kubernetes] ({error})") from None

    async def examine() -> list[doctor.Check]:
        cluster = await Cluster.connect(arguments.kubeconfig)
        try:
            return await doctor.examine(cluster, arguments.namespace, recording=arguments.recording)
        finally:
            await cluster.close()

    try:
        checks = asyncio.run(examine())
    except ClusterError as error:
        raise ValueError(str(error)) from None
    if arguments.format == "json":
        print(json.dumps([check.to_json() for check in checks], indent=2))
    else:
        print(doctor.render(checks))
    return int(any(check.state == "missing" for check in checks))


def _deploy(arguments: argparse.Namespace) -> int:
    from modelarmor.cluster import models

    try:
        if arguments.nim:
            return _sent(arguments, _nim(arguments))
        with _subject(arguments) as (name, evidence, root):
            claim, _, path = arguments.claim.partition(":")
            target = models.Target(
                name=arguments.name or _NOT_NAME.sub("-", name.split("/")[0].lower()).strip("-"),
                namespace=arguments.namespace,
                image=arguments.image,
                prefix=arguments.prefix,
                interpreter=arguments.interpreter,
                pull_secret=arguments.pull_secret,
                claim=claim,
                claim_path=path,
                tracking_uri=arguments.tracking_uri,
                fetch_secret=arguments.fetch_secret,
                fetch_egress=arguments.fetch_egress,
                replicas=arguments.replicas,
                most=arguments.max_replicas,
                limits={"nvidia.com/gpu": str(arguments.gpus)} if arguments.gpus > 0 else {},
                kserve=arguments.kserve,
            )
            exact = f"models:/{name}" if arguments.model.startswith("models:/") else ""
            if arguments.tracking_uri and not exact:
                raise ValueError(f"{arguments.model} is in no registry to be fetched from")
            guard = _guard(arguments, evidence, root)
            return _sent(arguments, models.manifests(evidence, target, exact, guard))
    except models.DeployError as error:
        print(f"modelarmor: error: {error}", file=sys.stderr)
        return 1


def _sent(arguments: argparse.Namespace, items: list[dict[str, Any]]) -> int:
    """Print the manifests, or apply them and wait."""
    from modelarmor.cluster import models

    if arguments.dry_run:
        sys.stdout.write(models.write(items))
        return 0
    from modelarmor.cluster.apply import RolloutError, apply
    from modelarmor.cluster.client import Cluster, ClusterError

    async def roll_out() -> None:
        cluster = await Cluster.connect(arguments.kubeconfig, arguments.context)
        try:
            await apply(
                cluster, items, arguments.timeout, lambda said: print(said, file=sys.stderr)
            )
        finally:
            await cluster.close()

    try:
        asyncio.run(roll_out())
    except (RolloutError, ClusterError) as error:
        print(f"modelarmor: error: {error}", file=sys.stderr)
        return 1
    return 0


def _nim(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    from modelarmor.cluster import nim

    theirs = (arguments.evidence, arguments.tracking_uri, arguments.kserve, arguments.guard)
    if any(theirs) or ":" in arguments.claim:
        raise ValueError("--nim takes an image, a --claim without a path, and no model's options")
    return nim.manifests(
        nim.Nim(
            name=arguments.name or arguments.model,
            namespace=arguments.namespace,
            image=arguments.image,
            claim=arguments.claim,
            pull_secret=arguments.pull_secret,
            gpus=arguments.gpus or 1,
            replicas=arguments.replicas,
        )
    )


def _guard(arguments: argparse.Namespace, evidence: Evidence, root: Path) -> Guard | None:
    from modelarmor_mlflow.serving import limits, pod

    from modelarmor.cluster.models import Guard

    if arguments.no_guard:
        return None
    found = limits.read(arguments.guard) if arguments.guard else pod.signed(root, evidence)
    if found is None:
        print(
            f"modelarmor: {root} is not here, so its signature is not known: the guard checks the"
            " size of requests alone; have --guard name its limits",
            file=sys.stderr,
        )
    return Guard(pod.files(found), pod.PROGRAM)


def _subject(arguments: argparse.Namespace) -> AbstractContextManager[tuple[str, Evidence, Path]]:
    """The model's exact name, its evidence, and where it lies, if it does."""
    if arguments.evidence is not None:
        if not arguments.unreviewed:
            raise ValueError("--evidence is for what nobody has approved: add --unreviewed")
        from modelarmor.generate.evidence import Evidence

        # the pods compare the files with it themselves
        evidence = Evidence.loads(arguments.evidence.read_bytes())
        root = Path(arguments.model)
        return nullcontext((root.name, evidence, root))
    return _approved(arguments)


@contextmanager
def _approved(arguments: argparse.Namespace) -> Iterator[tuple[str, Evidence, Path]]:
    from modelarmor.cluster.models import DeployError

    try:
        from modelarmor_mlflow.commands import mlflow_errors
        from modelarmor_mlflow.serving import source
        from modelarmor_mlflow.serving.server import ServeError
    except ImportError as error:
        raise ValueError(f"approvals are read with MLflow: modelarmor[mlflow] ({error})") from None

    with mlflow_errors():
        try:
            with source.found(
                arguments.model, unreviewed=arguments.unreviewed, config=arguments.config
            ) as subject:
                yield subject.name, subject.evidence, subject.root
        except ServeError as error:
            raise DeployError(str(error)) from None

"""Benign pickles that nothing was tuned on: every estimator of scikit-learn, every layer of torch.

    python -m tests.generate.scan.benign DIRECTORY

Fits each estimator on toy data and writes it as pickle, joblib and compressed joblib; makes each
module of `torch.nn` and writes it whole and as a state dict.
"""

from __future__ import annotations

import inspect
import pickle
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def write(directory: Path) -> int:
    """Write all that this environment can make; returns how many files."""
    count = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, estimator in _estimators():
            import joblib

            (directory / f"sklearn-{name}.pkl").write_bytes(pickle.dumps(estimator))
            joblib.dump(estimator, directory / f"sklearn-{name}.joblib")
            joblib.dump(estimator, directory / f"sklearn-{name}-z.joblib", compress=3)
            count += 3
        for name, module in _modules():
            import torch

            torch.save(module, directory / f"torch-{name}.pt")
            torch.save(module.state_dict(), directory / f"torch-{name}-state.pt")
            count += 2
    return count


def _estimators() -> Iterator[tuple[str, Any]]:
    import numpy as np
    from sklearn.utils import all_estimators
    from sklearn.utils._test_common.instance_generator import _construct_instances

    random = np.random.RandomState(0)
    x = np.abs(random.normal(size=(60, 4)))
    labels = (x[:, 0] > x[:, 1]).astype(int)
    both = np.column_stack([labels, 1 - labels])
    texts = ["a model that carries code", "a model of data", "nothing else"] * 20
    tries = (
        (x, labels), (x, both), (x, both.astype(float)), (x, x[:, :2]), (x, x[:, 0]),
        (x[:, :1], labels), (x[:, 0], labels.astype(float)), (texts, labels),
        ([{"a": 1.0, "b": 2.0}] * 60, labels), (x > 0.5, labels),
    )  # fmt: skip
    for name, kind in all_estimators():
        try:
            estimator = next(iter(_construct_instances(kind)))
        except Exception:
            continue
        for data, target in tries:
            try:
                estimator.fit(data, target)
                pickle.dumps(estimator)
            except Exception:
                continue
            yield name, estimator
            break


#: for parameters without a default, by name
_ARGUMENTS = {
    "num_features": 4, "num_channels": 4, "in_features": 4, "out_features": 2, "in_channels": 4,
    "out_channels": 4, "kernel_size": 3, "input_size": 4, "hidden_size": 4, "num_embeddings": 8,
    "embedding_dim": 4, "embed_dim": 4, "num_heads": 2, "d_model": 4, "nhead": 2, "num_groups": 2,
    "normalized_shape": 4, "upscale_factor": 2, "downscale_factor": 2, "padding": 1, "size": 8,
    "in1_features": 4, "in2_features": 4, "output_size": 4, "groups": 2, "n_classes": 12,
    "cutoffs": [4, 8], "threshold": 0.5, "value": 0.0, "lambd": 0.5, "output_ratio": 0.5,
    "num_layers": 1, "dim": 1, "unflattened_size": (2, 2), "norm_type": 2,
}  # fmt: skip


def _modules() -> Iterator[tuple[str, Any]]:
    import torch

    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(4, 2, 8)
    special = {"encoder_layer": layer, "decoder_layer": torch.nn.TransformerDecoderLayer(4, 2, 8)}
    for name in sorted(dir(torch.nn)):
        kind = getattr(torch.nn, name)
        if not (isinstance(kind, type) and issubclass(kind, torch.nn.Module)):
            continue
        try:
            parameters = inspect.signature(kind).parameters.values()
            given = {
                p.name: {**_ARGUMENTS, **special}[p.name]
                for p in parameters
                if p.default is p.empty and p.name in {**_ARGUMENTS, **special}
            }
            yield name, kind(**given)
        except Exception:
            continue


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    print(write(target), "files in", target)

"""Which MLflow this was tried with.

The store is MLflow's own with methods replaced, so a version that nobody has looked at may have
grown a new way to promote. It is refused until it has been looked at.
"""

from __future__ import annotations

from typing import Final

KNOWN: Final = ("3.17", "3.18")


class UnknownMlflowError(RuntimeError):
    """An MLflow that this version of ModelArmor does not know."""


def check(version: str | None = None) -> None:
    """Refuse an MLflow that was never tried.

    Args:
        version: instead of the installed one's.

    Raises:
        UnknownMlflowError: it is another one; says which are known.
    """
    if version is None:
        import mlflow

        version = mlflow.__version__
    if ".".join(version.split(".")[:2]) not in KNOWN:
        raise UnknownMlflowError(
            f"MLflow {version} is not known to this version of ModelArmor, so it could miss a"
            f" promotion; known are {', '.join(f'{known}.*' for known in KNOWN)}. Install one of"
            " them, or a newer ModelArmor."
        )

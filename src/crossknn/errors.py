"""Errors of crossknn.

::

    CrossKNNError
    ├── InputError          what was passed in cannot be used (also a ValueError)
    ├── ScorerError         the cross-encoder failed, or returned what is no score
    ├── IndexFileError      an index on disk is damaged, half-written, foreign or of another scorer
    ├── WriteError          what should be kept cannot be written: a full disk, another writer (also an OSError)
    ├── BudgetError         a limit on cross-encoder calls leaves nothing to do
    ├── MissingDataError    a data set that installs as a package is not there
    ├── MissingExtraError   an optional dependency is not installed (also an ImportError)
    ├── ServiceError        a served index cannot be reached, or fails (crossknn.client)
    └── QueueFullError, ClosedError: it has too much to do, or shuts down (crossknn.server)

    CrossKNNWarning         (a UserWarning) something works, but not as one might think
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType


class CrossKNNError(Exception):
    """Base of every error raised on purpose by this package."""


class InputError(CrossKNNError, ValueError):
    """What was passed in cannot be used."""


class ScorerError(CrossKNNError):
    """The cross-encoder failed, or returned what is no score."""


class IndexFileError(CrossKNNError):
    """An index on disk is damaged, half-written, foreign, or was built with another scorer."""


class WriteError(CrossKNNError, OSError):
    """What should be kept cannot be written: the disk is full or read-only, or another process is writing there."""


class BudgetError(CrossKNNError):
    """A limit on cross-encoder calls leaves nothing to do."""


class MissingDataError(CrossKNNError):
    """A data set that installs as a package is not there."""


class MissingExtraError(CrossKNNError, ImportError):
    """An optional dependency is not installed."""


class CrossKNNWarning(UserWarning):
    """Something works, but not as one might think."""


@contextmanager
def loading(what: str) -> Iterator[None]:
    """Say in one line why another library could not load a model.

    Raises:
        InputError: in place of whatever it raised.
    """
    try:
        yield
    except CrossKNNError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:300] or "no reason given"
        raise InputError(f"could not load {what}: {type(error).__name__}: {reason}") from error


def import_extra(module: str, extra: str) -> ModuleType:
    """Import an optional dependency, or say which extra brings it.

    Raises:
        MissingExtraError: ``module`` is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        in_a_clone = ", or in a clone: pip install ./demo" if extra == "demo" else ""
        raise MissingExtraError(
            f"this needs {error.name or module!r}, which is not installed; try: pip install 'crossknn[{extra}]'"
            f"{in_a_clone}"
        ) from error

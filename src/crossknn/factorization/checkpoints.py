"""States of a training run, kept aside so that a run that was stopped goes on."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from crossknn.errors import InputError
from crossknn.files import write_aside


def save_checkpoint(torch: Any, path: Path, key: str, state: Mapping[str, Any]) -> None:
    """Replace the file, as a whole.

    Args:
        torch: the module, which is no dependency of the core.
        path: of the file.
        key: what the state belongs to: scores, weights, settings.
        state: tensors and plain types only.

    Raises:
        WriteError: the disk is full or read-only.
    """
    file = io.BytesIO()
    torch.save({**state, "key": key}, file)
    write_aside(path, file.getvalue())


def load_checkpoint(torch: Any, path: Path, key: str) -> dict[str, Any]:
    """The state that :func:`save_checkpoint` wrote; no code in it is run.

    Raises:
        InputError: no checkpoint, or one of something else.
    """
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
        known = state["key"]
    except Exception as error:  # whatever torch says of a file that is none of its own
        raise InputError(
            f"{path} is no checkpoint ({type(error).__name__}); remove it, or name another file"
        ) from error
    if known != key:
        raise InputError(f"{path} is a checkpoint of other scores, texts, weights or settings; name another file")
    return state

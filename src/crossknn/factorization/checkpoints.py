"""States of a training run, kept aside so that a run that was stopped goes on."""

from __future__ import annotations

import io
import os
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


def check_checkpoint(path: Path | None) -> None:
    """Make sure that a checkpoint could be written, before hours go into what it is to keep.

    Raises:
        InputError: its folder is not there, cannot be written to, or the path is a folder.
    """
    if path is None:
        return
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise InputError(f"the checkpoint {path} cannot be written; name a file in a folder that is there and writable")


def load_checkpoint(torch: Any, path: Path, key: str, epochs: int) -> dict[str, Any]:
    """The state that :func:`save_checkpoint` wrote; no code in it is run.

    Args:
        torch: the module.
        path: of the file.
        key: what it must belong to.
        epochs: of the run that would go on from it.

    Raises:
        InputError: no checkpoint, one of something else, or one of a longer run.
    """
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
        known = state["key"]
    except Exception as error:  # whatever torch says of a file that is none of its own
        raise InputError(f"{path} is no checkpoint ({type(error).__name__}); remove it, or name another") from error
    if known != key:
        raise InputError(
            f"{path} is a checkpoint of other scores, texts, weights or settings; remove it, or name another"
        )
    if state["epoch"] > epochs:
        raise InputError(f"{path} is {state['epoch']} epochs on, further than the {epochs} asked for; name another")
    return state

"""Writing so that nothing is lost: aside and renamed, by one process at a time, with errors that name the place."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from crossknn.errors import WriteError

LOCK = ".lock"


def write_aside(path: Path, data: bytes) -> None:
    """Write a file beside its place and rename it: readers see the old file or the new one, never a part.

    Raises:
        WriteError: the disk is full or read-only; the old file stays.
    """
    aside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with writing(path):
        try:
            with aside.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            aside.replace(path)
        except BaseException:
            aside.unlink(missing_ok=True)
            raise


@contextmanager
def writing(place: Path) -> Iterator[None]:
    """Say where the system would not write, and that nothing else was lost.

    Raises:
        WriteError: in place of the system's error.
    """
    try:
        yield
    except WriteError:
        raise
    except OSError as error:
        reason = error.strerror or str(error) or type(error).__name__
        if error.errno is None and "requested and" in reason:  # as numpy says that the disk is full
            reason = f"No space left ({reason} bytes)"
        raise WriteError(
            f"cannot write {place}: {reason}; what was written before is whole: make room, see who may write "
            "there, or choose another place"
        ) from error


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it, where it is not there.

    Raises:
        WriteError: the disk is read-only, or a file is in the way.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)


@contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Keep other processes from writing into a folder, which is made if it is not there. A crash gives it free.

    Raises:
        WriteError: another process, or another thread of this one, is writing there; or the folder cannot be made.
    """
    make_folder(folder)
    with writing(folder):
        lock = FileLock(folder / LOCK)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise WriteError(
                f"{folder} is being written by another command; wait until it is done, or choose another place"
            ) from None
    try:
        yield
    finally:
        lock.release()

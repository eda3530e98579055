"""Where the command starts: it imports almost nothing, so that Ctrl-C is answered from the first moment."""

from __future__ import annotations

import io
import os
import signal
import sys

_INTERRUPTED = 130


def main() -> None:
    """Entry point of the command."""
    heard = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # not so in the background of some shells
    if heard:
        signal.signal(signal.SIGINT, _leave)
    from crossknn.cli.app import app

    for stream in (sys.stdout, sys.stderr):  # texts may have letters that a terminal's encoding has not
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        if heard:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        app()
    except KeyboardInterrupt:
        _leave()
    except SystemExit as end:
        if end.code == _INTERRUPTED:  # typer's answer to KeyboardInterrupt
            os.write(
                2,
                b"interrupted; a build, an evaluation or a tuning goes on from what it has when it is run again, "
                b"other commands from what --cache has kept\n",
            )
        raise
    finally:
        if heard:
            signal.signal(signal.SIGINT, signal.SIG_DFL)


def _leave(*_: object) -> None:
    """End at once: nothing is at stake yet, and an exception could go astray in the middle of an import."""
    os.write(2, b"interrupted\n")
    os._exit(_INTERRUPTED)

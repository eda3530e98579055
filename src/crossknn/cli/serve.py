"""``crossknn serve``."""

from __future__ import annotations

import math

import uvicorn

from crossknn.cli.terminal import notes
from crossknn.index import Index
from crossknn.server import ServerOptions, create_app

_LOOPBACK = ("127.0.0.1", "::1", "localhost")


def run_server(index: Index, options: ServerOptions, host: str, port: int, examples: list[str] | None) -> None:
    """Serve until told to stop; what was taken is finished first."""
    if host not in _LOOPBACK and options.token is None:
        notes.print(
            "[yellow]warning:[/yellow] whoever reaches this address can search; set CROSSKNN_TOKEN to ask for a token"
        )
    notes.print(f"{len(index):,} items at http://{host}:{port}/ (Ctrl-C stops)", highlight=False)
    uvicorn.run(
        create_app(index, options, examples=examples),
        host=host,
        port=port,
        log_level="warning",
        server_header=False,
        timeout_graceful_shutdown=math.ceil(options.deadline_seconds),
    )

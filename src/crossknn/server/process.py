"""``crossknn serve`` as a process: where it listens, and how it ends."""

from __future__ import annotations

import errno
import math
import socket
from contextlib import suppress

import uvicorn
from rich.console import Console

from crossknn.errors import InputError
from crossknn.index import Index
from crossknn.server import ServerOptions, create_app

_LOOPBACK = ("127.0.0.1", "::1", "localhost")


def run_server(
    index: Index, options: ServerOptions, host: str, port: int, examples: list[str] | None, notes: Console
) -> None:
    """Serve until told to stop; what was taken is finished first. Whoever started it is told on ``notes``."""
    if host not in _LOOPBACK and options.token is None:
        notes.print(
            "[yellow]warning:[/yellow] whoever reaches this address can search; set CROSSKNN_TOKEN to ask for a token"
        )
    config = uvicorn.Config(
        create_app(index, options, examples=examples),
        host=host,
        port=port,
        log_level="warning",
        server_header=False,
        timeout_graceful_shutdown=math.ceil(options.deadline_seconds),
    )
    listening = _listening(host, port)
    with suppress(KeyboardInterrupt):  # uvicorn raises it again after it has shut down
        _Server(config, f"{len(index):,} items", notes).run(listening)


def _listening(host: str, port: int) -> list[socket.socket]:
    """Sockets that listen there, one for each address of a name: localhost may have two.

    Raises:
        InputError: an address is taken, or none is of this machine's.
    """
    found: list[socket.socket] = []
    try:
        for family, _, _, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            try:
                found.append(socket.create_server(address[:2], family=family))
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    raise
                refused = error  # such as IPv6 where there is none
        if not found:
            raise refused
    except OSError as error:
        for listening in found:
            listening.close()
        raise InputError(
            f"cannot listen at {host}, port {port}: {error.strerror or error}; try another --port or --host"
        ) from error
    return found


class _Server(uvicorn.Server):
    """Says where it listens, once it does."""

    def __init__(self, config: uvicorn.Config, what: str, notes: Console) -> None:
        super().__init__(config)
        self._what, self._notes = what, notes

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listening in self.servers[:1]:
            port = listening.sockets[0].getsockname()[1]
            host = f"[{self.config.host}]" if ":" in self.config.host else self.config.host
            self._notes.print(f"{self._what} at http://{host}:{port}/ (Ctrl-C stops)", highlight=False)

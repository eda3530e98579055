"""``crossknn serve`` as a process: where it listens, what it does when its index is replaced, and how it ends."""

from __future__ import annotations

import asyncio
import errno
import math
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from rich.console import Console

from crossknn.errors import CrossKNNError, InputError
from crossknn.index import Index
from crossknn.server import ServerOptions, create_app
from crossknn.server.service import Service
from crossknn.storage import version_of

_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_SECONDS_BETWEEN_LOOKS = 2.0


def run_server(
    folder: Path,
    read: Callable[[], Index],
    options: ServerOptions,
    host: str,
    port: int,
    examples: list[str] | None,
    notes: Console,
) -> None:
    """Serve until told to stop; what was taken is finished first.

    Args:
        folder: the index; it is read again whenever another is there.
        read: reads it, always with the same models.
        options: limits, token, batching.
        host, port: where to listen.
        examples: queries that the page offers.
        notes: tells whoever started it.
    """
    if host not in _LOOPBACK and options.token is None:
        notes.print(
            "[yellow]warning:[/yellow] whoever reaches this address can search; set CROSSKNN_TOKEN to ask for a token"
        )
    version = version_of(folder)
    app = create_app(read(), options, examples=examples)
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        log_level="warning",
        server_header=False,
        timeout_graceful_shutdown=math.ceil(options.deadline_seconds),
    )
    listening = _listening(host, port)
    with suppress(KeyboardInterrupt):  # uvicorn raises it again after it has shut down
        _Server(config, _Followed(folder, version, read, app.state.service), notes).run(listening)


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


@dataclass
class _Followed:
    """A folder whose index is served, as of its ``version``."""

    folder: Path
    version: str
    read: Callable[[], Index]
    service: Service

    def look(self) -> bool:
        """Serve what is there now; whether it is another index than before.

        Raises:
            CrossKNNError: it cannot be served. The one before still is, and it is not looked at again.
        """
        try:
            now = version_of(self.folder)
        except (CrossKNNError, OSError):  # taken away, or being replaced; what is served is in memory
            return False
        if now == self.version:
            return False
        self.version = now
        self.service.replace(self.read())
        return True


class _Server(uvicorn.Server):
    """Says where it listens, once it does, and serves what its folder has."""

    def __init__(self, config: uvicorn.Config, followed: _Followed, notes: Console) -> None:
        super().__init__(config)
        self._followed, self._notes = followed, notes
        self._following: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listening in self.servers[:1]:
            port = listening.sockets[0].getsockname()[1]
            host = f"[{self.config.host}]" if ":" in self.config.host else self.config.host
            self._notes.print(f"{self._n_items} items at http://{host}:{port}/ (Ctrl-C stops)", highlight=False)
            self._following = asyncio.create_task(self._follow())

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._following is not None:
            self._following.cancel()
        await super().shutdown(sockets)

    @property
    def _n_items(self) -> str:
        return f"{len(self._followed.service.now.index):,}"

    async def _follow(self) -> None:
        """Look at the folder now and then; what cannot be read changes nothing."""
        while True:
            await asyncio.sleep(_SECONDS_BETWEEN_LOOKS)
            try:
                if await asyncio.to_thread(self._followed.look):
                    self._notes.print(f"{self._n_items} items, read again", highlight=False)
            except Exception as error:  # noqa: BLE001 - whatever is wrong with the new one, the old one serves
                self._notes.print(
                    f"[yellow]warning:[/yellow] {self._followed.folder} has another index, which cannot be served: "
                    f"{error}; the one before still is"
                )

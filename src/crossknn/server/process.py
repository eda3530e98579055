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


@dataclass(frozen=True)
class OnDisk:
    """An index that was read from a folder, and how it is read again when the folder has another.

    Attributes:
        folder: where it is.
        version: :func:`~crossknn.storage.version_of` the folder, before ``index`` was read.
        index: as it was read.
        read: reads what is there now, with the models of ``index``.
    """

    folder: Path
    version: str
    index: Index
    read: Callable[[], Index]


def run_server(
    served: OnDisk, options: ServerOptions, host: str, port: int, examples: list[str] | None, notes: Console
) -> None:
    """Serve until told to stop; what was taken is finished first. Whoever started it is told on ``notes``."""
    if host not in _LOOPBACK and options.token is None:
        notes.print(
            "[yellow]warning:[/yellow] whoever reaches this address can search; set CROSSKNN_TOKEN to ask for a token"
        )
    app = create_app(served.index, options, examples=examples)
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
        _Server(config, served, app.state.service, notes).run(listening)


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
    """Says where it listens, once it does, and serves what its folder has."""

    def __init__(self, config: uvicorn.Config, served: OnDisk, service: Service, notes: Console) -> None:
        super().__init__(config)
        self._served, self._service, self._notes = served, service, notes
        self._following: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listening in self.servers[:1]:
            port = listening.sockets[0].getsockname()[1]
            host = f"[{self.config.host}]" if ":" in self.config.host else self.config.host
            self._notes.print(
                f"{len(self._served.index):,} items at http://{host}:{port}/ (Ctrl-C stops)", highlight=False
            )
            self._following = asyncio.create_task(self._follow())

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._following is not None:
            self._following.cancel()
        await super().shutdown(sockets)

    async def _follow(self) -> None:
        """Read the index again whenever the folder has another; what cannot be read changes nothing."""
        folder, known = self._served.folder, self._served.version
        while True:
            await asyncio.sleep(_SECONDS_BETWEEN_LOOKS)
            try:
                now = await asyncio.to_thread(version_of, folder)
            except CrossKNNError:  # taken away, or another is just being put there; what is served is in memory
                continue
            if now == known:
                continue
            known = now
            try:
                index = await asyncio.to_thread(self._served.read)
                self._service.replace(index)
            except Exception as error:  # noqa: BLE001 - whatever is wrong with the new one, the old one serves
                self._notes.print(
                    f"[yellow]warning:[/yellow] {folder} has another index, which cannot be served: {error}; the one "
                    "before still is"
                )
            else:
                self._notes.print(f"{len(index):,} items, read again", highlight=False)

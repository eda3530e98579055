"""``crossknn serve`` as a process: where it listens, what it does when its index is replaced, and how it ends."""

from __future__ import annotations

import errno
import math
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import uvicorn
from rich.console import Console
from rich.markup import escape

from crossknn.errors import CrossKNNError, InputError
from crossknn.index import Index
from crossknn.server import ServerOptions, create_app
from crossknn.server.service import Service
from crossknn.storage import version_of

_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_SECONDS_BETWEEN_LOOKS, _MOST_SECONDS_BETWEEN_LOOKS = 2.0, 300.0


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
    service: Service = app.state.service
    follower = _Follower(folder, version, read, service, notes)
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
        _Server(config, follower, f"{len(service.now.index):,} items", notes).run(listening)


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


class _Follower(threading.Thread):
    """Looks at a folder now and then, and serves what is there now; what cannot be served changes nothing.

    An index that is refused (damaged, of other models) is not tried again. Where reading fails for another reason,
    which may pass, it is, after ever longer pauses.

    Args:
        folder: the index.
        version: :func:`~crossknn.storage.version_of` what is served already.
        read: reads the folder.
        service: serves it.
        notes: tells whoever started it.
    """

    def __init__(self, folder: Path, version: str, read: Callable[[], Index], service: Service, notes: Console) -> None:
        super().__init__(name="crossknn-follower", daemon=True)  # no reading under way holds up the end
        self._folder, self._version, self._read, self._service, self._notes = folder, version, read, service, notes
        self._ended, self.pause, self._refused = threading.Event(), _SECONDS_BETWEEN_LOOKS, ""

    def run(self) -> None:
        while not self._ended.wait(self.pause):
            self.look()

    def end(self) -> None:
        """Look no more."""
        self._ended.set()

    def look(self) -> None:
        """Serve what is there, if it is another index than before."""
        try:
            now = version_of(self._folder)
        except (CrossKNNError, OSError) as error:  # taken away, or being replaced; what is served is in memory
            if not self._service.stale:
                self._warn(error, "what was read before is served")
            self._service.stale = True
            return
        if now == self._version:
            self._service.stale = now == self._refused
            return
        try:
            self._service.replace(self._read())
        except CrossKNNError as error:
            self._version = self._refused = now
            self._service.stale = True
            self._warn(error, "the one before still is; start again with its own models if it is to be served")
        except Exception as error:  # noqa: BLE001 - whatever it is, it is no end of the service
            self._service.stale = True
            self.pause = min(2 * self.pause, _MOST_SECONDS_BETWEEN_LOOKS)
            self._warn(error, f"the one before still is, and it is read again in {self.pause:.0f} seconds")
        else:
            self._version, self._service.stale, self.pause = now, False, _SECONDS_BETWEEN_LOOKS
            self._notes.print(f"{len(self._service.now.index):,} items, read again", highlight=False)

    def _warn(self, error: Exception, then: str) -> None:
        self._notes.print(
            f"[yellow]warning:[/yellow] what is at {escape(str(self._folder))} now cannot be served: "
            f"{escape(str(error))}; {then}",
            highlight=False,
            soft_wrap=True,
        )


class _Server(uvicorn.Server):
    """Says where it listens, once it does, and has its folder followed from then on."""

    def __init__(self, config: uvicorn.Config, follower: _Follower, what: str, notes: Console) -> None:
        super().__init__(config)
        self._follower, self._what, self._notes = follower, what, notes

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listening in self.servers[:1]:
            port = listening.sockets[0].getsockname()[1]
            host = f"[{self.config.host}]" if ":" in self.config.host else self.config.host
            self._notes.print(f"{self._what} at http://{host}:{port}/ (Ctrl-C stops)", highlight=False)
            self._follower.start()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._follower.end()
        await super().shutdown(sockets)

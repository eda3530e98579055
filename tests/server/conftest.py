"""A service over a small world, called without a network."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from crossknn import Index
from crossknn.server import ServerOptions, create_app


class Service:
    """An app, and a client of it in the same process."""

    def __init__(
        self, index: Index, options: ServerOptions | None = None, headers: dict[str, str] | None = None
    ) -> None:
        self.index, self.app = index, create_app(index, options)
        self.headers = headers or {}

    async def send(self, method: str, path: str, **request: Any) -> httpx.Response:
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.request(method, path, **request)

    def __call__(self, method: str, path: str, **request: Any) -> httpx.Response:
        return asyncio.run(self.send(method, path, **request))

    def post(self, path: str, body: Any) -> httpx.Response:
        return self("POST", path, json=body)

    def get(self, path: str) -> httpx.Response:
        return self("GET", path)


@pytest.fixture
def serve() -> Iterator[Callable[..., Service]]:
    """Makes services, and shuts them down."""
    made: list[Service] = []

    def make(index: Index, options: ServerOptions | None = None) -> Service:
        made.append(Service(index, options))
        return made[-1]

    yield make
    for service in made:
        service.app.state.service.scheduler.close(5)


@pytest.fixture
def index(world: Any) -> Index:
    return Index.build(world.items, scorer=world.scorer, first_stage=world.dense)

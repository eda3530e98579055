"""``crossknn serve``."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from crossknn.cli.options import Cache, Device, FirstStageSpec, IndexPath, ScorerSpec, reader
from crossknn.cli.terminal import notes, one_line_errors
from crossknn.errors import import_extra


@one_line_errors
def serve(
    index: IndexPath,
    host: Annotated[str, typer.Option(help="Address to listen on; the outside world reaches only what you name.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on.")] = 8080,
    max_budget: Annotated[int, typer.Option(min=1, help="Cross-encoder calls that one query may cost.")] = 5_000,
    queue: Annotated[int, typer.Option(min=1, help="Searches taken at the same time; more get a 429.")] = 256,
    deadline: Annotated[float, typer.Option(min=0.001, help="Seconds after which a request is given up.")] = 30.0,
    batch: Annotated[int, typer.Option(min=1, help="Pairs scored at a time, from all searches under way.")] = 256,
    wait: Annotated[
        float,
        typer.Option(min=0, help="Milliseconds that a search after a pause is held for others to share its batch."),
    ] = 2.0,
    allow_origin: Annotated[
        list[str] | None, typer.Option(help="Web origin that may call from a browser; repeat for more.")
    ] = None,
    example: Annotated[
        list[str] | None, typer.Option(help="Query that the page offers; repeat for more. Else some train queries.")
    ] = None,
    scorer: ScorerSpec = None,
    first_stage: FirstStageSpec = None,
    device: Device = "cpu",
    cache_file: Cache = None,
) -> None:
    """Serve an index over HTTP, with a page to try it at /. A token in CROSSKNN_TOKEN is asked of clients.

    An index that replaces it in its folder, as `crossknn update` and `tune` do, is served within seconds.

    Example: [bold]crossknn serve codes.crossknn --port 8080[/bold]   (needs: pip install 'crossknn\\[serve]')
    """
    import_extra("fastapi", "serve")
    from crossknn.server import ServerOptions
    from crossknn.server.process import run_server

    options = ServerOptions(
        token=os.environ.get("CROSSKNN_TOKEN") or None,
        max_budget=max_budget,
        queue=queue,
        deadline_seconds=deadline,
        batch_pairs=batch,
        wait_ms=wait,
        allow_origins=tuple(allow_origin or ()),
    )
    read = reader(index, scorer, first_stage, device, cache_file, in_memory=True)
    run_server(index, read, options, host, port, example, notes)

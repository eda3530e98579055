"""``crossknn update``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from crossknn.cli.options import Device, FirstStageSpec, IndexPath, Json, ScorerSpec, reader
from crossknn.cli.terminal import notes, one_line_errors, out
from crossknn.errors import InputError
from crossknn.files import sole_writer
from crossknn.inputs import read_ids, read_items, read_metadata
from crossknn.storage import read_manifest


@one_line_errors
def update(
    index: IndexPath,
    items: Annotated[
        Path | None,
        typer.Argument(
            metavar="ITEMS", help="Items to add, or to change where the index has their id; a file as build takes it."
        ),
    ] = None,
    remove: Annotated[
        Path | None, typer.Option(help="Ids of items to take out: a TXT with one a line, or a table with id.")
    ] = None,
    only_these: Annotated[
        bool, typer.Option("--only-these", help="ITEMS is all that is to be there: whatever it lacks is taken out.")
    ] = False,
    metadata: Annotated[
        list[str] | None,
        typer.Option(
            help="Field of ITEMS to keep for filters; repeat for more. Those that the index has, unless given; what a "
            "file does not say stays."
        ),
    ] = None,
    scorer: ScorerSpec = None,
    first_stage: FirstStageSpec = None,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Add, change or remove items of an index, without a cross-encoder call: new ones are placed by their texts.

    Where a good part of the items is new, build again: what is learned then knows scores of theirs as well.

    Example: [bold]crossknn update codes.crossknn new.jsonl --remove gone.txt[/bold]
    """
    if only_these and (items is None or remove is not None):
        raise InputError("--only-these needs ITEMS, all that is to be there, and no --remove")
    if items is None and remove is None:
        raise InputError("there is nothing to change; give ITEMS, --remove or both")
    given = {} if items is None else read_items(items)
    gone = [] if remove is None else read_ids(remove)
    read_manifest(index)  # nothing is written where there is no index
    with sole_writer(index):
        opened = reader(index, scorer, first_stage, device, None)()
        had = dict(zip(opened.item_ids, opened.items, strict=True))
        if absent := [item_id for item_id in gone if item_id not in had]:
            notes.print(
                f"note: {len(absent):,} of the {len(gone):,} items to remove are not there, such as "
                f"{escape(repr(absent[0]))}",
                highlight=False,
                soft_wrap=True,
            )
            gone = [item_id for item_id in gone if item_id in had]
        if only_these:
            gone = [item_id for item_id in had if item_id not in given]
        fields = {}
        if items is not None and (names := metadata or opened.metadata.fields):
            before = dict(zip(opened.item_ids, opened.metadata, strict=True))
            read = read_metadata(items, names, joining=opened.metadata)
            fields = {item_id: {**before.get(item_id, {}), **row} for item_id, row in read.items()}
        changed = opened.updated(given, remove=gone, metadata=fields)
        changed.save(index, locked=True)
    told = {
        "added": len(given.keys() - had.keys()),
        "changed": sum(had.get(item_id, text) != text for item_id, text in given.items()),
        "removed": len(gone),
        "items": len(changed),
    }
    if as_json:
        typer.echo(json.dumps({"index": str(index)} | told))
    else:
        out.print(
            f"[bold]{escape(str(index))}[/bold]: {told['added']:,} items added, {told['changed']:,} changed, "
            f"{told['removed']:,} removed; it has {told['items']:,}",
            highlight=False,
            soft_wrap=True,
        )

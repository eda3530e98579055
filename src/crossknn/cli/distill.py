"""``crossknn distill``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from crossknn.cli.models import absolute, around_encoder, open_first_stage
from crossknn.cli.options import Device, FirstStageSpec, IndexPath, ScorerSpec, reader
from crossknn.cli.terminal import notes, one_line_errors, out, progress_bar
from crossknn.errors import InputError, import_extra, loading
from crossknn.factorization import Distillation
from crossknn.files import make_folder, writing
from crossknn.index import Index
from crossknn.storage import check_place, read_manifest

_CHECKPOINT = "distillation.pt"
_MODEL_FILES = ("modules.json", "config.json", "config_sentence_transformers.json")


@one_line_errors
def distill(
    index: IndexPath,
    out_folder: Annotated[Path, typer.Option("--out", help="Folder of the new model.")],
    new_index: Annotated[
        Path | None,
        typer.Option(
            "--index",
            help="Folder of a further index: learned from the same scores, as build would, over the new model.",
        ),
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the train queries.")] = Distillation.epochs,
    learning_rate: Annotated[float, typer.Option(help="Of AdamW.")] = Distillation.learning_rate,
    max_length: Annotated[
        int | None, typer.Option(min=3, help="Tokens of a text while training; the model's own limit unless given.")
    ] = None,
    scorer: ScorerSpec = None,
    first_stage: FirstStageSpec = None,
    device: Device = "cpu",
) -> None:
    """Fine-tune an index's own dual encoder on the scores it was built with; costs no cross-encoder call.

    A run that was interrupted goes on when the same command is run again. Needs: pip install 'crossknn\\[torch]'.

    Example: [bold]crossknn distill codes.crossknn --out encoder/ --index better.crossknn[/bold]
    """
    if new_index is not None:
        if new_index.resolve() in (index.resolve(), out_folder.resolve()):
            raise InputError(f"--index {new_index} is to be a further index; choose a folder of its own")
        check_place(new_index)
    settings = Distillation(epochs=epochs, learning_rate=learning_rate, max_length=max_length)
    remembered = read_manifest(index)["config"].get("notes", {})
    opened = reader(index, scorer, first_stage, device, None)()
    tuned = run_distillation(opened, first_stage or remembered.get("first_stage"), out_folder, settings, device)
    if new_index is None:
        out.print(f"build with it: --first-stage {escape(tuned)}", highlight=False, soft_wrap=True)
    else:
        learned = opened.with_first_stage(open_first_stage(tuned, device, opened.scorer))
        learned.notes |= opened.notes | {"first_stage": absolute(tuned)}
        learned.save(new_index)
        notes.print(f"learned [bold]{escape(str(new_index))}[/bold] from the same scores", highlight=False)
    with writing(out_folder):
        (out_folder / _CHECKPOINT).unlink()  # the last thing: until then, the same command goes on from it


def run_distillation(index: Index, model_name: str | None, place: Path, settings: Distillation, device: str) -> str:
    """Fine-tune an index's dual encoder on its scores, and write the model to a folder, its checkpoint beside.

    Returns:
        The first stage with the new model's vectors in place of the old one's, as ``--first-stage`` names it.

    Raises:
        InputError: the index has no scores, its first stage is no sentence-transformers model, or the folder holds one.
        MissingExtraError: torch is not installed.
        WriteError: the disk is full or read-only.
    """
    if index.train_scores is None:
        raise InputError("the index was built without train queries, so there are no scores to learn from")
    before, encoder = around_encoder(model_name or "")
    kind, _, name = encoder.partition(":")
    if kind != "st" or not name:
        raise InputError(
            f"distillation fine-tunes a sentence-transformers model; name it as st:NAME, not {model_name} (the index "
            "must be over it as st:NAME, with hybrid:, states: or late: before it or not)"
        )
    unfinished = (place / _CHECKPOINT).exists()
    if not unfinished and any((place / file).exists() for file in _MODEL_FILES):
        raise InputError(f"{place} holds a model already; choose another folder")
    library = import_extra("sentence_transformers", "torch")
    make_folder(place)
    with loading(f"the encoder {name} on device {device!r}"):
        model = library.SentenceTransformer(name, device=device)
    checkpoint = place / _CHECKPOINT
    with progress_bar("training") as progress:
        replace(settings, checkpoint=checkpoint).fit(
            model, index.train_queries, index.items, index.train_scores, progress
        )
    with writing(place):
        model.save_pretrained(str(place))
    notes.print(f"learned from {len(index.train_scores.values):,} scores", highlight=False)
    return f"{before}st:{place}"

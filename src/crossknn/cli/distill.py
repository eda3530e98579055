"""``crossknn distill``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from crossknn.cli.options import Device, FirstStageSpec, IndexPath, ScorerSpec, open_index
from crossknn.cli.terminal import notes, one_line_errors, out, progress_bar
from crossknn.errors import InputError, import_extra, loading
from crossknn.factorization import Distillation
from crossknn.files import make_folder, writing
from crossknn.index import Index
from crossknn.storage import read_manifest

_CHECKPOINT = "distillation.pt"
_MODEL_FILES = ("modules.json", "config.json", "config_sentence_transformers.json")


@one_line_errors
def distill(
    index: IndexPath,
    out_folder: Annotated[Path, typer.Option("--out", help="Folder of the new model.")],
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the train queries.")] = 3,
    scorer: ScorerSpec = None,
    first_stage: FirstStageSpec = None,
    device: Device = "cpu",
) -> None:
    """Fine-tune an index's own dual encoder on the scores it was built with; costs no cross-encoder call.

    A run that was interrupted goes on from its last epoch.

    Example: [bold]crossknn distill codes.crossknn --out encoder/[/bold]   (needs: pip install 'crossknn[torch]')
    """
    remembered = read_manifest(index)["config"].get("notes", {})
    opened = open_index(index, scorer, first_stage, device, None)
    run_distillation(opened, first_stage or remembered.get("first_stage"), out_folder, epochs, device)


def run_distillation(index: Index, model_name: str | None, place: Path, epochs: int, device: str) -> None:
    """Fine-tune an index's dual encoder on its scores, and write the model to a folder.

    Raises:
        InputError: the index has no scores, its first stage is no sentence-transformers model, or the folder holds one.
        MissingExtraError: torch is not installed.
        WriteError: the disk is full or read-only.
    """
    if index.train_scores is None:
        raise InputError("the index was built without train queries, so there are no scores to learn from")
    kind, _, name = (model_name or "").partition(":")
    if kind != "st" or not name:
        raise InputError(f"distillation fine-tunes a sentence-transformers model; name it as st:NAME, not {model_name}")
    unfinished = (place / _CHECKPOINT).exists()
    if not unfinished and any((place / file).exists() for file in _MODEL_FILES):
        raise InputError(f"{place} holds a model already; choose another folder")
    library = import_extra("sentence_transformers", "torch")
    make_folder(place)
    with loading(f"the encoder {name} on device {device!r}"):
        model = library.SentenceTransformer(name, device=device)
    checkpoint = place / _CHECKPOINT
    with progress_bar("training") as progress:
        Distillation(epochs=epochs, checkpoint=checkpoint).fit(
            model, index.train_queries, index.items, index.train_scores, progress
        )
    with writing(place):
        model.save_pretrained(str(place))
        checkpoint.unlink()
    notes.print(f"learned from {len(index.train_scores.values):,} scores", highlight=False)
    out.print(f"build with it: --first-stage {escape(f'st:{place}')}", highlight=False, soft_wrap=True)

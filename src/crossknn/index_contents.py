"""An index as plain arrays, rows and settings, which :mod:`crossknn.storage` keeps, and back; and what a build that is
not done has prepared."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from crossknn import storage
from crossknn.errors import CrossKNNWarning, IndexFileError
from crossknn.factorization import GatedMLP, ItemModel, LinearMap, Normalisation
from crossknn.fingerprints import digest_texts
from crossknn.first_stage import FirstStage
from crossknn.first_stage.base import BoundFirstStage, Kept, kept_of
from crossknn.learning import Learned
from crossknn.prepared import PreparedItems
from crossknn.scorers import Fingerprint, Scorer
from crossknn.scores import ScoreMatrix
from crossknn.scores.ledger import has_ledger
from crossknn.search import Calibration
from crossknn.storage import Contents
from crossknn.tuning import Trial, Tuning

if TYPE_CHECKING:
    from crossknn.index import Index

_MAPS = ("query_map", "item_map")
_KEPT = "first_stage_"


def contents_of(index: Index) -> Contents:
    """Everything but the scorer and the first stage, of which fingerprints are kept."""
    config: dict[str, Any] = {
        "n_items": len(index),
        "scorer": asdict(index.scorer.fingerprint),
        "first_stage": index.first_stage.fingerprint,
        "item_model": None,
        "notes": index.notes,
        "tuning": None if index.tuning is None else asdict(index.tuning),
        "fields": index.metadata.fields,
    }
    arrays: dict[str, np.ndarray] = {}
    rows: dict[str, list[dict[str, Any]]] = {
        "items": [{"id": i, "text": text} for i, text in zip(index.item_ids, index.items, strict=True)]
    }
    for row, fields in zip(rows["items"], index.metadata, strict=True):
        row |= {"metadata": fields} if fields else {}
    arrays |= {f"{_KEPT}{name}": array for name, array in index.prepared.kept.items()}
    if index.learned is not None:
        model, scores = index.learned.item_model, index.learned.scores
        config["item_model"] = {
            "normalisation": asdict(model.normalisation),
            "follows_first_stage": model.follows_first_stage,
            "noise": model.noise,
            "first_stage_weight": model.first_stage_weight,
        }
        arrays |= {"item_vectors": model.vectors, "item_biases": model.biases}
        for name in _MAPS:
            parts = getattr(model, name)
            arrays |= {} if parts is None else {f"{name}_{part}": np.asarray(a) for part, a in vars(parts).items()}
        arrays |= {
            "score_queries": scores.query_indices,
            "score_items": scores.item_indices,
            "score_values": scores.values,
        }
        rows["train_queries"] = [{"text": text} for text in index.learned.queries]
    return Contents(config, arrays, rows)


def prepared_of(contents: Contents, scorer: Scorer, first_stage: FirstStage) -> PreparedItems:
    """The items, with what their first stage had prepared.

    Raises:
        KeyError, TypeError, InputError: something is missing, or does not fit.
    """
    kept = {name.removeprefix(_KEPT): array for name, array in contents.arrays.items() if name.startswith(_KEPT)}
    items = {row["id"]: row["text"] for row in contents.rows["items"]}
    return PreparedItems(items, scorer, first_stage, first_stage.prepare(list(items.values()), kept or None))


def arguments_of(contents: Contents) -> dict[str, Any]:
    """What :class:`~crossknn.Index` is made with beside its items.

    Raises:
        KeyError, TypeError, InputError: something is missing, or does not fit.
    """
    arrays, rows, config = contents.arrays, contents.rows, contents.config
    learned = None
    if "score_values" in arrays:
        queries = [row["text"] for row in rows["train_queries"]]
        rows_of, columns_of, values = (np.asarray(arrays[f"score_{part}"]) for part in ("queries", "items", "values"))
        scores = ScoreMatrix(rows_of, columns_of, values, (len(queries), len(rows["items"])))
        learned = Learned(queries, scores, _item_model(config["item_model"], arrays))
    return {
        "metadata": {row["id"]: row["metadata"] for row in rows["items"] if "metadata" in row},
        "learned": learned,
        "notes": config.get("notes"),
        "tuning": _tuning(config.get("tuning")),
    }


def prepared_for_build(
    first_stage: FirstStage, items: Sequence[str], collecting: Path | None, *, keep: bool
) -> BoundFirstStage:
    """A first stage made ready, as far as can be from what an unfinished build kept; what took work is kept anew."""
    if collecting is None:
        return first_stage.prepare(items)
    folder = collecting / storage.PREPARED
    kept = _prepared_before(folder, first_stage, items)
    bound = first_stage.prepare(items, kept)
    if keep and kept is None and kept_of(bound):
        _keep_prepared(folder, first_stage, items, kept_of(bound))
    return bound


def _keep_prepared(folder: Path, first_stage: FirstStage, items: Sequence[str], kept: Kept) -> None:
    """Keep what a first stage prepared, until an index is written.

    Where scores have been collected since, what another one prepared, or of other items, stays: its build can go on,
    and this one will be refused the scores.

    Raises:
        WriteError: the disk is full or read-only.
    """
    others = (folder / storage.MANIFEST).exists() and not is_prepared(folder, first_stage, items)
    if not (others and has_ledger(folder.parent)):
        storage.save(folder, Contents(_prepared_by(first_stage, items), dict(kept), {}), storage.PREPARED)


def is_prepared(folder: Path, first_stage: FirstStage, items: Sequence[str]) -> bool:
    """Whether :func:`prepared_for_build` has kept in a folder what this first stage makes of these items."""
    try:
        return bool(storage.read_manifest(folder, storage.PREPARED)["config"] == _prepared_by(first_stage, items))
    except IndexFileError:
        return False


def _prepared_before(folder: Path, first_stage: FirstStage, items: Sequence[str]) -> Kept | None:
    """What :func:`prepared_for_build` kept; None where it is not there, of something else, or damaged."""
    if not is_prepared(folder, first_stage, items):
        return None
    try:
        return storage.load(folder, storage.PREPARED, in_memory=True).arrays
    except IndexFileError:
        return None


def _prepared_by(first_stage: FirstStage, items: Sequence[str]) -> dict[str, Any]:
    return {"first_stage": first_stage.fingerprint, "items": digest_texts(items)}


def check_built_with(folder: Path, contents: Contents, scorer: Scorer, first_stage: FirstStage) -> None:
    """Make sure that an index is opened with what it was built with.

    Raises:
        IndexFileError: another scorer or first stage, or the contents do not say.
    """
    try:
        built, first = Fingerprint(**contents.config["scorer"]), contents.config["first_stage"]
    except (KeyError, TypeError) as error:
        raise IndexFileError(f"{folder} does not fit together ({error}); build the index again") from error
    given = scorer.fingerprint
    if built.model != given.model:
        raise IndexFileError(f"{folder} was built with the scorer {built.model}, not with {given.model}")
    if built.kernel != given.kernel:
        warnings.warn(
            f"{folder} was built on {built.kernel}, and is searched on {given.kernel}: scores can differ a little",
            CrossKNNWarning,
            stacklevel=3,
        )
    if first != first_stage.fingerprint:
        raise IndexFileError(f"{folder} was built with the first stage {first}, not with {first_stage.fingerprint}")


def _item_model(stored: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> ItemModel:
    query_map, item_map = (_map(name, arrays) for name in _MAPS)
    return ItemModel(
        arrays["item_vectors"],
        arrays["item_biases"],
        Normalisation(**stored["normalisation"]),
        bool(stored["follows_first_stage"]),
        query_map,
        stored.get("noise"),
        item_map,
        float(stored.get("first_stage_weight", 0.0)),
    )


def _map(name: str, arrays: Mapping[str, np.ndarray]) -> GatedMLP | LinearMap | None:
    """A map of the item model, from its arrays; None where there are none."""
    parts = {p.removeprefix(f"{name}_"): np.asarray(a) for p, a in arrays.items() if p.startswith(f"{name}_")}
    if not parts:
        return None
    return GatedMLP(**parts) if "w1" in parts else LinearMap(**parts)


def _tuning(stored: Mapping[str, Any] | None) -> Tuning | None:
    if stored is None:
        return None
    told = stored.get("calibration")
    calibration = None
    if told and told.get("form") == Calibration.form:  # else what was calibrated was another number: tune again
        calibration = Calibration(**told)
    trials = tuple(Trial(**trial) for trial in stored["trials"])
    interval = None if stored.get("interval") is None else tuple(stored["interval"])
    return Tuning(**{**stored, "trials": trials, "calibration": calibration, "interval": interval})

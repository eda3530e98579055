"""MF_Ind, inductive matrix factorization (paper, section 2.1 and appendix A.2.2), by torch.

Two shallow networks, one for queries and one for items, on the first stage's frozen vectors. They are trained on the
observed cells, mean of ``(s'_qi - u_q . v_i)^2`` with ``s'`` the normalised scores, and embed items and queries that
were never scored: the choice where a plan cannot touch every item.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from crossknn.arrays import FloatArray, IntArray
from crossknn.errors import InputError, import_extra
from crossknn.factorization.base import check_device, check_shapes
from crossknn.factorization.checkpoints import check_checkpoint, load_checkpoint, save_checkpoint
from crossknn.factorization.item_model import GatedMLP, ItemModel, Normalisation
from crossknn.scores.matrix import ScoreMatrix
from crossknn.scores.plan import Pairs

_SIDES = ("queries", "items")
_PARTS = ("w1", "b1", "w2", "b2", "skip")


@dataclass(frozen=True)
class MFInductive:
    """MF_Ind: two gated MLPs, trained by AdamW until held-out cells stop getting better (extra ``torch``).

    Attributes:
        epochs: at most so many passes over the cells.
        learning_rate: of AdamW, constant.
        batch_size: cells in a step.
        held_out: share of the cells that decides which epoch is kept; the first epoch is before any training.
        patience: epochs without a better one before it ends.
        hidden: width of the hidden layer as a multiple of the vectors'.
        seed: of the start, the order and the held-out cells.
        checkpoint: file that keeps the state after every epoch; a run that was stopped goes on from it. It is not
            removed, and one that fits other scores or settings is refused.
        device: of torch.
    """

    epochs: int = 20
    learning_rate: float = 1e-3
    batch_size: int = 1024
    held_out: float = 0.1
    patience: int = 3
    hidden: int = 2
    seed: int = 0
    checkpoint: Path | None = None
    device: str = "cpu"

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "patience", "hidden"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not self.learning_rate > 0:
            raise InputError(f"learning_rate must be above 0, got {self.learning_rate}")
        if not 0 < self.held_out < 1:
            raise InputError(f"held_out must lie between 0 and 1, got {self.held_out}")

    def check(self, pairs: Pairs, n_items: int, *, has_vectors: bool) -> None:
        """See :class:`~crossknn.factorization.Factorization`: vectors, and a pair to learn from and one held out.

        Raises:
            InputError: the first stage has no vectors, there are fewer pairs, torch lacks the device, or the checkpoint
                could not be written.
            MissingExtraError: torch is not installed.
        """
        import_extra("torch", "torch")
        if not has_vectors:
            raise InputError("MF_Ind learns from the first stage's vectors; give a dense first stage")
        check_device(self.device)
        check_checkpoint(self.checkpoint)
        if len(pairs) < 2:
            raise InputError("MF_Ind needs two scored pairs at least; give train queries and a plan that scores some")

    def fit(
        self,
        scores: ScoreMatrix,
        item_vectors: FloatArray | None = None,
        query_vectors: FloatArray | None = None,
        first_stage_scores: FloatArray | None = None,
    ) -> ItemModel:
        """See :class:`~crossknn.factorization.Factorization`.

        Args:
            scores: observed CE scores, (n_queries, n_items).
            item_vectors: (n_items, d), needed.
            query_vectors: (n_queries, d), needed.
            first_stage_scores: not used.

        Raises:
            InputError: no vectors, or shapes that do not fit, or a checkpoint of something else.
            MissingExtraError: torch is not installed.

        Cost: no CE call.
        """
        given = item_vectors is not None and query_vectors is not None
        self.check(scores.pairs, scores.shape[1], has_vectors=given)
        assert item_vectors is not None  # as just checked
        assert query_vectors is not None
        check_shapes(scores, item_vectors, query_vectors)
        products = np.sum(query_vectors[scores.query_indices] * item_vectors[scores.item_indices], axis=1)
        normalisation = Normalisation.matching(scores.values, products)
        state = _trained(self, scores, normalisation.apply(scores.values), item_vectors, query_vectors)
        of_queries, of_items = (
            GatedMLP(**{part: state[f"{side}.{part}"].cpu().numpy() for part in _PARTS}) for side in _SIDES
        )
        vectors, biases = of_items.apply(item_vectors), np.zeros(len(item_vectors), dtype=np.float32)
        return ItemModel(vectors, biases, normalisation, query_map=of_queries, item_map=of_items)


def _trained(
    options: MFInductive, scores: ScoreMatrix, targets: FloatArray, item_vectors: FloatArray, query_vectors: FloatArray
) -> dict[str, Any]:
    """Parameters of the best epoch on held-out cells."""
    torch = import_extra("torch", "torch")
    rng = np.random.default_rng(options.seed)
    order = rng.permutation(len(targets))
    n_held_out = min(max(1, round(options.held_out * len(targets))), len(targets) - 1)
    held_out, kept = order[:n_held_out], order[n_held_out:]
    cells = [torch.as_tensor(np.asarray(a)) for a in (scores.query_indices, scores.item_indices)]
    values, of_items, of_queries = (
        torch.as_tensor(np.array(a, dtype=np.float32), device=options.device)
        for a in (targets, item_vectors, query_vectors)
    )
    parameters = _start(torch, item_vectors.shape[1], options)

    def error(chosen: Any) -> Any:
        u = _forward(torch, parameters, "queries", of_queries[cells[0][chosen]])
        v = _forward(torch, parameters, "items", of_items[cells[1][chosen]])
        return ((values[chosen] - (u * v).sum(1)) ** 2).mean()

    def held_out_error() -> float:
        with torch.no_grad():
            parts = np.array_split(held_out, math.ceil(len(held_out) / options.batch_size))
            return float(np.average([float(error(part)) for part in parts], weights=[len(part) for part in parts]))

    def copy() -> dict[str, Any]:
        return {name: parameter.detach().clone() for name, parameter in parameters.items()}

    optimizer = torch.optim.AdamW(parameters.values(), lr=options.learning_rate)
    state: dict[str, Any] = {"best": copy(), "best_error": held_out_error(), "best_epoch": 0, "epoch": 0}
    key = _key(options, scores.values, scores.query_indices, scores.item_indices)
    sketches = [_sketch(vectors) for vectors in (item_vectors, query_vectors)]
    if options.checkpoint is not None and options.checkpoint.exists():
        state = load_checkpoint(torch, options.checkpoint, key, options.epochs)
        _check_sketches(options.checkpoint, state["vectors"], sketches)
        optimizer.load_state_dict(state["optimizer"])
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(state["now"][name])
    while state["epoch"] < min(options.epochs, state["best_epoch"] + options.patience):
        state["epoch"] += 1
        shuffled = np.random.default_rng((options.seed, state["epoch"])).permutation(kept)
        for start in range(0, len(shuffled), options.batch_size):
            optimizer.zero_grad()
            error(shuffled[start : start + options.batch_size]).backward()
            optimizer.step()
        now = held_out_error()
        if now < state["best_error"]:
            state |= {"best": copy(), "best_error": now, "best_epoch": state["epoch"]}
        if options.checkpoint is not None:
            save_checkpoint(
                torch,
                options.checkpoint,
                key,
                {**state, "now": copy(), "optimizer": optimizer.state_dict(), "vectors": sketches},
            )
    best: dict[str, Any] = state["best"]
    return best


def _key(options: MFInductive, *arrays: FloatArray | IntArray) -> str:
    """Tells whether a checkpoint belongs to these scores and settings; more epochs may follow on fewer."""
    settings = repr(replace(options, checkpoint=None, epochs=1, patience=1, device=""))
    return " ".join(
        [settings, *(hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:16] for array in arrays)]
    )


def _sketch(vectors: FloatArray) -> list[float]:
    """A few numbers that tell vectors from others, and their order."""
    sketch: list[float] = (np.random.default_rng(0).standard_normal(len(vectors)) @ vectors).tolist()
    return sketch


def _check_sketches(path: Path, known: list[list[float]], given: list[list[float]]) -> None:
    """Make sure that a checkpoint is of these vectors. An encoder on another number of cores gives others in the last
    bits, and they count as the same."""
    for before, now in zip(known, given, strict=True):
        if len(before) != len(now) or not np.allclose(before, now, atol=1e-3 * np.abs(now).max(), rtol=0):
            raise InputError(f"{path} is a checkpoint of other vectors; remove it, or name another")


def _start(torch: Any, d: int, options: MFInductive) -> dict[str, Any]:
    """Both networks at random, their gates nearly shut: at first, vectors are almost what they were."""
    generator = torch.Generator().manual_seed(options.seed)
    h = options.hidden * d

    def uniform(*shape: int, fan_in: int) -> Any:
        return ((2 * torch.rand(*shape, generator=generator) - 1) / math.sqrt(fan_in)).to(options.device)

    parameters: dict[str, Any] = {}
    for side in _SIDES:
        parts = {
            "w1": uniform(d, h, fan_in=d),
            "b1": uniform(h, fan_in=d),
            "w2": uniform(h, d, fan_in=h),
            "b2": uniform(d, fan_in=h),
            "skip": torch.tensor([-5.0], device=options.device),
        }
        parameters |= {f"{side}.{part}": value.requires_grad_() for part, value in parts.items()}
    return parameters


def _forward(torch: Any, parameters: dict[str, Any], side: str, x: Any) -> Any:
    """What :class:`~crossknn.factorization.GatedMLP` computes."""
    w1, b1, w2, b2, skip = (parameters[f"{side}.{part}"] for part in _PARTS)
    inner = torch.nn.functional.gelu(x @ w1 + b1, approximate="tanh")
    gate = torch.sigmoid(skip)
    return gate * (inner @ w2 + b2) + (1 - gate) * x

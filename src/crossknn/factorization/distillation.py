"""Distillation of the dual encoder: the cross-encoder's scores teach the first stage itself (DE_dstl in the paper).

For a train query, the cross-entropy between the softmax of the CE's scores of its scored items and that of the dual
encoder's is lowered. Unlike the factorizations beside it this moves the whole transformer: every step embeds texts
again, and afterwards all items must be embedded again too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from crossknn.arrays import IntArray
from crossknn.errors import InputError, import_extra
from crossknn.factorization.checkpoints import check_checkpoint, load_checkpoint, save_checkpoint
from crossknn.fingerprints import digest_texts, digest_weights
from crossknn.scores.ledger import ProgressCallback
from crossknn.scores.matrix import ScoreMatrix


@dataclass(frozen=True)
class Distillation:
    """Fine-tunes a sentence-transformers model on the scores of an index (extra ``torch``).

    Attributes:
        epochs: passes over the train queries.
        learning_rate: of AdamW, constant. The paper's is 1e-5; five times as much is for some hundred queries.
        queries_per_step: queries in a step.
        items_per_query: items of a query in a step, drawn anew each epoch from those scored.
        max_length: tokens of a text at most while training, where time grows faster than length. None is the model's
            own, with which it embeds afterwards in any case.
        scale: the dual encoder's inner products are multiplied by it before the softmax: those of unit vectors are too
            near each other for one.
        seed: of the order and the draws.
        checkpoint: file that keeps the state after every epoch; a run that was stopped goes on from it. One of other
            scores, weights or settings is refused.
    """

    epochs: int = 4
    learning_rate: float = 5e-5
    queries_per_step: int = 4
    items_per_query: int = 16
    max_length: int | None = None
    scale: float = 20.0
    seed: int = 0
    checkpoint: Path | None = None

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("queries_per_step", 1), ("items_per_query", 2)):
            if getattr(self, name) < least:
                raise InputError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if self.max_length is not None and self.max_length < 3:
            raise InputError(f"max_length must be 3 or more (two tokens are no words), got {self.max_length}")
        if not (self.learning_rate > 0 and self.scale > 0):
            raise InputError(
                f"learning_rate and scale must be above 0, got learning_rate={self.learning_rate}, scale={self.scale}"
            )

    def fit(
        self,
        model: Any,
        queries: Sequence[str],
        items: Sequence[str],
        scores: ScoreMatrix,
        progress: ProgressCallback | None = None,
    ) -> None:
        """Train a model in place; wrap it in a :class:`~crossknn.SentenceTransformersEncoder` afterwards.

        Args:
            model: a loaded ``sentence_transformers.SentenceTransformer``.
            queries: train queries, and
            items: item texts, as
            scores: observed CE scores, (n_queries, n_items). An index keeps all three: ``train_queries``, ``items``,
                ``train_scores``.
            progress: told of the steps done.

        Raises:
            InputError: texts that do not fit the scores, no query with two scores, or a checkpoint of something else.
            MissingExtraError: torch is not installed.

        Cost: no CE call; ``epochs * n_queries * (items_per_query + 1)`` passes of the dual encoder, forth and back.
        """
        torch = import_extra("torch", "torch")
        check_checkpoint(self.checkpoint)
        if (len(queries), len(items)) != scores.shape:
            raise InputError(f"{len(queries)} queries and {len(items)} items do not fit scores of shape {scores.shape}")
        scored = {query: cells for query, cells in scores.by_query() if len(cells) > 1}
        if not scored:
            raise InputError("distillation needs train queries with two scored items at least")
        optimizer = torch.optim.AdamW(model.parameters(), lr=self.learning_rate)
        key = self._key(model, queries, items, scores)
        first, n_steps = self._resume(torch, model, optimizer, key), -(-len(scored) // self.queries_per_step)
        was_training = model.training
        model.train()
        with self._cut(model):
            for epoch in range(first, self.epochs):
                rng = np.random.default_rng((self.seed, epoch))
                order = rng.permutation(list(scored))
                with torch.random.fork_rng():
                    torch.manual_seed(int(rng.integers(2**31)))  # of dropout
                    for step in range(n_steps):
                        chosen = order[step * self.queries_per_step : (step + 1) * self.queries_per_step]
                        cells = [_drawn(scored[int(query)], self.items_per_query, rng) for query in chosen]
                        optimizer.zero_grad()
                        asked = [queries[query] for query in chosen]
                        self._loss(torch, model, asked, items, scores, cells).backward()
                        optimizer.step()
                        if progress:
                            progress(epoch * n_steps + step + 1, self.epochs * n_steps)
                if self.checkpoint is not None:
                    state = {"epoch": epoch + 1, "model": model.state_dict(), "optimizer": optimizer.state_dict()}
                    save_checkpoint(torch, self.checkpoint, key, state)
        model.train(was_training)

    @contextmanager
    def _cut(self, model: Any) -> Iterator[None]:
        """Texts are cut while training."""
        if self.max_length is None:
            yield
            return
        longest = model.max_seq_length
        try:
            model.max_seq_length = min(self.max_length, longest or self.max_length)
        except AttributeError:
            raise InputError(
                f"max_length={self.max_length}: this model has no limit that could be set; leave it out"
            ) from None
        try:
            yield
        finally:
            model.max_seq_length = longest

    def _loss(
        self,
        torch: Any,
        model: Any,
        queries: Sequence[str],
        items: Sequence[str],
        scores: ScoreMatrix,
        cells: Sequence[IntArray],
    ) -> Any:
        """Mean over queries of the cross-entropy of softmax(DE scores) under softmax(CE scores)."""
        seen = [scores.item_indices[of_query] for of_query in cells]
        texts, places = np.unique(np.concatenate(seen), return_inverse=True)
        vectors = _embed(model, [*queries, *(items[item] for item in texts)])
        of_queries, of_items = vectors[: len(queries)], vectors[len(queries) :]
        losses = []
        places_of_query = np.split(places, np.cumsum([len(some) for some in seen])[:-1])
        for u, of_query, chosen in zip(of_queries, cells, places_of_query, strict=True):
            target = torch.as_tensor(scores.values[of_query], dtype=vectors.dtype, device=vectors.device).softmax(0)
            losses.append(-(target * (self.scale * (of_items[chosen] @ u)).log_softmax(0)).sum())
        return torch.stack(losses).mean()

    def _key(self, model: Any, queries: Sequence[str], items: Sequence[str], scores: ScoreMatrix) -> str:
        """Tells whether a checkpoint belongs to these weights, texts, scores and settings; epochs may be added."""
        if self.checkpoint is None:
            return ""
        settings = repr(replace(self, checkpoint=None, epochs=1))
        cells = hashlib.sha256(
            scores.values.tobytes() + scores.query_indices.tobytes() + scores.item_indices.tobytes()
        ).hexdigest()
        return " ".join([settings, digest_weights(model), digest_texts(queries), digest_texts(items), cells])

    def _resume(self, torch: Any, model: Any, optimizer: Any, key: str) -> int:
        """Epochs done."""
        if self.checkpoint is None or not self.checkpoint.exists():
            return 0
        state = load_checkpoint(torch, self.checkpoint, key, self.epochs)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        return int(state["epoch"])


def _embed(model: Any, texts: list[str]) -> Any:
    """(n, d) with gradients."""
    prepare = getattr(model, "preprocess", None) or model.tokenize  # before sentence-transformers 6
    features = {name: value.to(model.device) for name, value in prepare(texts).items() if hasattr(value, "to")}
    return model(features)["sentence_embedding"]


def _drawn(cells: IntArray, n: int, rng: np.random.Generator) -> IntArray:
    return cells if len(cells) <= n else rng.choice(cells, n, replace=False)

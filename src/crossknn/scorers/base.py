"""What the search needs of a cross-encoder, and the one place where its answers are checked."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from crossknn.arrays import FloatArray, IntArray
from crossknn.errors import CrossKNNWarning, InputError, ScorerError
from crossknn.token_inputs import InputTemplate, TokenInputs, Tokens

_LARGEST = 1e30
"""What a search can still square and add up."""


NOTHING_TO_READ = "a {} shows no hidden states; SentenceTransformersScorer does, and OnnxScorer where its model does"


@dataclass(frozen=True)
class Fingerprint:
    """Which scorer a score came from.

    Attributes:
        model: everything that decides a score: hash of weights and tokenizer, maximum length, precision.
            Scores of two models are never mixed.
        kernel: what computes it: runtime and device. Another kernel moves the last digits of a score.
    """

    model: str
    kernel: str = "python"

    def __str__(self) -> str:
        return f"{self.model} on {self.kernel}"


class BoundScorer(Protocol):
    """A scorer made ready for a list of items (tokenised once, not once per pair)."""

    def score(self, queries: Sequence[str], query_indices: IntArray, item_indices: IntArray) -> FloatArray:
        """Raw logits of the pairs ``(queries[query_indices[p]], items[item_indices[p]])``.

        Args:
            queries: query texts.
            query_indices: (n_pairs,) positions in ``queries``.
            item_indices: (n_pairs,) positions in the items this scorer is bound to.

        Returns:
            (n_pairs,) scores, higher is better, in the order of the pairs. Not a sigmoid: that saturates and ties.

        Cost: ``n_pairs`` CE calls.
        """
        ...


class Scorer(Protocol):
    """An expensive scorer of (query, item) pairs, higher is better: a cross-encoder or whatever stands in for one."""

    @property
    def fingerprint(self) -> Fingerprint:
        """Part of every stored score and of every index."""
        ...

    def prepare(self, items: Sequence[str]) -> BoundScorer:
        """Do once what need not be done for every pair. Costs no CE call."""
        ...


_READ_AT = (2 / 3, 5 / 6)


def layers_to_read(n_layers: int) -> list[int]:
    """Numbers, from 1, of the layers whose states :class:`~crossknn.WithStates` is to read: two thirds and five sixths
    of the way up; one where these are the same."""
    return sorted({round(part * n_layers) for part in _READ_AT})


def read_alone(template: InputTemplate, items: Tokens, max_length: int) -> TokenInputs:
    """Items where they stand in a pair, with an empty query; it is said how many had to be cut."""
    inputs, cut = TokenInputs.of_second(template, items, max_length)
    if cut:
        warn_of_truncation(cut, len(items.lengths), max_length, "items")
    return inputs


def warn_of_truncation(cut: int, n: int, max_length: int, what: str = "pairs") -> None:
    """Said by scorers that cut pairs, the first time they do, and by those that cut items that they read."""
    warnings.warn(
        f"{cut} of {n} {what} are longer than {max_length} tokens and were cut; "
        "shorten the items, or raise the scorer's max_length (--scorer NAME#max_length=512) if the model allows",
        CrossKNNWarning,
        stacklevel=3,
    )


def prepared(scorer: Scorer, items: Sequence[str]) -> BoundScorer:
    """The scorer bound to items, or a clear error.

    Raises:
        ScorerError: the scorer raised something of its own.
    """
    try:
        return scorer.prepare(items)
    except (ScorerError, InputError):
        raise
    except Exception as error:
        raise ScorerError(f"the scorer could not prepare the items: {type(error).__name__}: {error}") from error


def checked_scores(
    bound: BoundScorer, queries: Sequence[str], query_indices: IntArray, item_indices: IntArray
) -> FloatArray:
    """The scores of some pairs as float64, or a clear error: one finite number per pair.

    Raises:
        ScorerError: the scorer raised, returned another number of scores, or one that is NaN, infinite, complex or
            beyond 1e30.
    """
    try:
        given = np.asarray(bound.score(queries, query_indices, item_indices))
        if np.iscomplexobj(given):
            raise ScorerError(f"the scorer returned complex numbers ({given.dtype}); every score must be a real one")
        scores = given.astype(np.float64)
    except (ScorerError, InputError):
        raise
    except Exception as error:
        raise ScorerError(f"the scorer failed on {len(item_indices)} pairs: {type(error).__name__}: {error}") from error
    if scores.shape != item_indices.shape:
        raise ScorerError(f"the scorer returned scores of shape {scores.shape} for {len(item_indices)} pairs")
    usable = np.isfinite(scores) & (np.abs(scores) <= _LARGEST)
    if not usable.all():
        bad = int(np.flatnonzero(~usable)[0])
        raise ScorerError(
            f"the scorer returned {scores[bad]} for query {queries[query_indices[bad]]!r} and item "
            f"{int(item_indices[bad])}; every score must be a finite number, at most {_LARGEST:g} in size (half "
            "precision can overflow: try fp32)"
        )
    return scores

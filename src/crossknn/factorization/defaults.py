"""Which factorization learns where none is asked for."""

from __future__ import annotations

from crossknn.factorization.base import Factorization
from crossknn.factorization.side_information import MFSideInformation
from crossknn.factorization.transductive import MFTransductive

_MOST_CELLS = 50_000_000
"""Train queries times items that MF with side information still fills in: 600 MB beside some 6 KB for each item, and a
minute or two on one core."""


def default_factorization(n_queries: int, n_items: int, *, has_vectors: bool) -> Factorization:
    """:class:`MFSideInformation` where it can learn: it found most for the same calls from thirty train queries on,
    on dev queries, and about as much from fewer (``docs/results/choices.md``). :class:`MFTransductive` elsewhere.

    Args:
        n_queries: train queries with scores.
        n_items: items of the index.
        has_vectors: whether the first stage gives vectors.
    """
    if has_vectors and n_queries > 1 and n_queries * n_items <= _MOST_CELLS:
        return MFSideInformation()
    return MFTransductive()

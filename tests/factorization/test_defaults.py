"""Which factorization learns where none is asked for."""

from __future__ import annotations

from crossknn.factorization import MFSideInformation, MFTransductive, default_factorization


def test_many_train_queries_of_many_items_are_factorized_without_filling_all_cells() -> None:
    assert isinstance(default_factorization(1_000, 50_000, has_vectors=True), MFSideInformation)
    for learned in ((1_001, 50_000, True), (1, 50_000, True), (1_000, 50_000, False)):
        assert isinstance(default_factorization(*learned[:2], has_vectors=learned[2]), MFTransductive)

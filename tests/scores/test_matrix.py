"""The score matrix: stored is observed, absent is unknown."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossknn.errors import InputError
from crossknn.scores import ScoreMatrix

_cells = st.dictionaries(st.tuples(st.integers(0, 5), st.integers(0, 7)), st.sampled_from([0.0, -1.5, 2.0]))


@given(cells=_cells, seed=st.integers(0, 5))
def test_every_cell_is_found_again_by_query_and_by_item_zeros_included(
    cells: dict[tuple[int, int], float], seed: int
) -> None:
    keys = [list(cells)[n] for n in np.random.default_rng(seed).permutation(len(cells))]
    rows, columns = (np.array([key[side] for key in keys], dtype=np.int64) for side in (0, 1))
    matrix = ScoreMatrix.from_pairs(rows, columns, np.array([cells[key] for key in keys]), (6, 8))
    for groups, side in ((matrix.by_query(), matrix.query_indices), (matrix.by_item(), matrix.item_indices)):
        found = {}
        for key, positions in groups:
            assert len(positions)
            assert (side[positions] == key).all()
            for p in positions:
                found[int(matrix.query_indices[p]), int(matrix.item_indices[p])] = float(matrix.values[p])
        assert found == cells


@pytest.mark.parametrize(
    ("rows", "columns", "values"),
    [
        ([0, 0], [1, 1], [1.0, 2.0]),
        ([1, 0], [0, 1], [1.0, 2.0]),
        ([0, 0], [2, 1], [1.0, 2.0]),
        ([0, 1], [0, 1], [1.0]),
        ([0, 0], [0, 3], [1.0, 2.0]),
        ([0, 2], [0, 1], [1.0, 2.0]),
        ([0, 0], [-1, 1], [1.0, 2.0]),
        ([0, 0], [0, 1], [1.0, np.nan]),
    ],
    ids=["twice", "queries", "items", "lengths", "item beyond", "query beyond", "negative", "nan"],
)
def test_what_is_no_score_matrix_is_refused(rows: list[int], columns: list[int], values: list[float]) -> None:
    with pytest.raises(InputError):
        ScoreMatrix(np.array(rows), np.array(columns), np.array(values), (2, 3))


def test_narrow_whole_numbers_name_cells_beyond_their_range() -> None:
    rows, columns = np.array([0, 2999], dtype=np.int32), np.array([5, 999_999], dtype=np.int32)
    matrix = ScoreMatrix.from_pairs(rows, columns, np.array([1.0, 2.0]), (3000, 1_000_000))
    assert matrix.cells.tolist() == [5, 2_999_999_999]


def test_from_pairs_refuses_a_pair_that_stands_twice() -> None:
    with pytest.raises(InputError, match="twice"):
        ScoreMatrix.from_pairs(np.array([1, 0, 1]), np.array([2, 0, 2]), np.array([1.0, 2, 3]), (2, 3))

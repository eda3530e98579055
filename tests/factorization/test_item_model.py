"""The normalisation of scores, and item models that do not fit together."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from crossknn.errors import InputError
from crossknn.factorization import GatedMLP, ItemModel, LinearMap, Normalisation

_values = st.lists(st.floats(-50, 50).map(lambda x: round(x, 3)), min_size=2, max_size=20)


@given(scores=_values, reference=_values)
def test_matching_gives_scores_the_mean_and_spread_of_the_reference(
    scores: list[float], reference: list[float]
) -> None:
    assume(np.ptp(scores) > 0)
    assume(np.ptp(reference) > 0)
    a, b = np.array(scores), np.array(reference)
    matched = Normalisation.matching(a, b).apply(a)
    np.testing.assert_allclose([matched.mean(), matched.std()], [b.mean(), b.std()], rtol=1e-6, atol=1e-6)


@given(scores=_values, scale=st.floats(0.01, 100), shift=st.floats(-100, 100))
def test_order_is_kept_and_invert_undoes_apply(scores: list[float], scale: float, shift: float) -> None:
    a, normalisation = np.array(scores), Normalisation(scale, shift)
    normalised = normalisation.apply(a)
    np.testing.assert_array_equal(np.argsort(normalised, kind="stable"), np.argsort(a, kind="stable"))
    np.testing.assert_allclose(normalisation.invert(normalised), a, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("constant", [0.0, 0.1, -7.3, 1e6 + 0.1])
@pytest.mark.parametrize("n", [1, 3, 7])
def test_constants_have_no_spread_to_match(constant: float, n: int) -> None:
    varied = np.array([0.5, 2.5])
    assert Normalisation.matching(np.full(n, constant), varied).scale == 1
    assert Normalisation.matching(varied, np.full(n, constant)).scale == 1
    np.testing.assert_allclose(Normalisation.matching(np.full(n, constant), varied).apply(np.array([constant])), 1.5)


@pytest.mark.parametrize(("scale", "shift"), [(0.0, 0.0), (-1.0, 0.0), (np.nan, 0.0), (np.inf, 0.0), (1.0, np.nan)])
def test_a_normalisation_that_loses_the_order_is_refused(scale: float, shift: float) -> None:
    with pytest.raises(InputError, match="finite scale above 0"):
        Normalisation(scale, shift)


@pytest.mark.parametrize(("vectors", "biases"), [((3,), (3,)), ((3, 2), (2,)), ((3, 2), (3, 1))])
def test_vectors_and_biases_must_fit(vectors: tuple[int, ...], biases: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="do not fit"):
        ItemModel(np.ones(vectors), np.ones(biases))


def _maps(d: int, h: int) -> list[GatedMLP | LinearMap]:
    rng = np.random.default_rng(0)
    w1, b1, w2, b2 = (rng.normal(size=shape).astype("f4") for shape in ((d, h), h, (h, d), d))
    return [GatedMLP(w1, b1, w2, b2, np.array([0.7])), LinearMap(w1, b1)]


@pytest.mark.parametrize("made", range(2))
def test_a_mapped_vector_does_not_depend_on_the_others(made: int) -> None:
    mapping = _maps(48, 96)[made]
    x = np.random.default_rng(1).normal(size=(21, 48)).astype("f4")
    together = mapping.apply(x)
    assert together.dtype == np.float32
    np.testing.assert_array_equal(together, np.vstack([mapping.apply(x[n : n + 1]) for n in range(21)]))
    np.testing.assert_array_equal(mapping.apply(x[::-1]), together[::-1])


@pytest.mark.parametrize("made", range(2))
def test_mapping_many_vectors_takes_little_more_memory_than_the_result(made: int) -> None:
    mapping, x = _maps(4, 256)[made], np.ones((20_000, 4), dtype="f4")
    tracemalloc.start()
    try:
        result = mapping.apply(x)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < result.nbytes + 1e6  # the hidden layer of all rows would be 41 MB

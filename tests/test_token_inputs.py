"""Cutting, joining and padding of texts, against the ``tokenizers`` library that does the same in its own way."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Encoding, Tokenizer

from crossknn.token_inputs import InputTemplate, TokenInputs, Tokens, batches, truncate_longest_first

_words = st.lists(st.sampled_from(["cat", "dog", "bird", "zebra", "a"]), max_size=20).map(" ".join)
_texts = st.lists(_words, min_size=1, max_size=5)


def _check(inputs: TokenInputs, rows: np.ndarray, expected: list[Encoding]) -> None:
    """Padded inputs are what the tokenizer gives for each, and zeros behind it."""
    padded, longest = inputs.padded(rows), max(len(encoding) for encoding in expected)
    assert inputs.lengths[rows].tolist() == [len(encoding) for encoding in expected]
    for name, values in (("input_ids", "ids"), ("token_type_ids", "type_ids"), ("attention_mask", "attention_mask")):
        wanted = [getattr(encoding, values) + [0] * (longest - len(encoding)) for encoding in expected]
        assert padded[name].tolist() == wanted


def test_many_texts_are_as_a_few_at_a_time(
    monkeypatch: pytest.MonkeyPatch, make_tokenizer: Callable[..., Tokenizer]
) -> None:
    tokenizer, texts = make_tokenizer("bert"), ["cat dog", "", "bird", "a zebra cat", "dog"]
    whole = Tokens.of(tokenizer, texts)
    monkeypatch.setattr("crossknn.token_inputs._TEXTS_AT_ONCE", 2)
    for left, right in zip(
        (whole.ids, whole.starts, whole.lengths), vars(Tokens.of(tokenizer, texts)).values(), strict=True
    ):
        np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("style", ["bert", "roberta", "none"])
@given(queries=_texts, items=_texts, max_length=st.integers(8, 24), seed=st.integers(0, 9))
def test_pairs_are_cut_joined_and_padded_as_by_tokenizers(
    make_tokenizer: Callable[..., Tokenizer],
    style: str,
    queries: list[str],
    items: list[str],
    max_length: int,
    seed: int,
) -> None:
    tokenizer, rng = make_tokenizer(style), np.random.default_rng(seed)
    template = InputTemplate.of(tokenizer, pair=True)
    q, i, rows = rng.integers(len(queries), size=6), rng.integers(len(items), size=6), rng.permutation(6)[:4]
    a, b = Tokens.of(tokenizer, queries).take(q), Tokens.of(tokenizer, items).take(i)
    whole = tokenizer.encode_batch([(queries[n], items[m]) for n, m in zip(q, i, strict=True)])
    a, b, n_cut = truncate_longest_first(a, b, max_length - template.n_special)
    assert n_cut == sum(len(encoding) > max_length for encoding in whole)
    tokenizer.enable_truncation(max_length, strategy="longest_first")
    _check(TokenInputs(template, a, b), rows, [tokenizer.encode(queries[q[row]], items[i[row]]) for row in rows])


@pytest.mark.parametrize("style", ["bert", "roberta", "none"])
@given(texts=_texts, max_length=st.integers(8, 24))
def test_single_texts_are_cut_joined_and_padded_as_by_tokenizers(
    make_tokenizer: Callable[..., Tokenizer], style: str, texts: list[str], max_length: int
) -> None:
    tokenizer = make_tokenizer(style)
    template = InputTemplate.of(tokenizer, pair=False)
    inputs = TokenInputs(template, Tokens.of(tokenizer, texts).truncated(max_length - template.n_special))
    tokenizer.enable_truncation(max_length)
    _check(inputs, np.arange(len(texts)), [tokenizer.encode(text) for text in texts])


@given(
    lengths=st.lists(st.integers(0, 50), max_size=30),
    most=st.none() | st.integers(1, 9),
    most_tokens=st.none() | st.integers(1, 200),
)
def test_batches_hold_every_input_once_longest_first_and_as_many_as_may_be(
    lengths: list[int], most: int | None, most_tokens: int | None
) -> None:
    given = np.array(lengths, dtype=np.int64)
    found = [batch.tolist() for batch in batches(given, max_inputs=most, max_tokens=most_tokens)]
    order = sorted(range(len(lengths)), key=lambda n: (-lengths[n], n))
    assert [position for batch in found for position in batch] == order
    most, most_tokens = most or 10**9, most_tokens or 10**9
    for batch in found:
        longest = lengths[batch[0]]
        assert len(batch) == 1 or (len(batch) <= most and len(batch) * longest <= most_tokens)
        more = len(batch) + 1 > most or (len(batch) + 1) * longest > most_tokens
        assert more or batch is found[-1]

"""Joining and cutting of texts, against the ``tokenizers`` library that does the same in its own way."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from crossknn.onnx_model import InputTemplate, length_sorted_batches
from crossknn.scorers.onnx import truncate_longest_first

_texts = st.lists(st.sampled_from(["cat", "dog", "bird", "zebra", "a"]), max_size=20).map(" ".join)


@pytest.mark.parametrize("style", ["bert", "roberta", "none"])
@given(query=_texts, item=_texts, max_length=st.integers(8, 24))
def test_pairs_are_cut_and_joined_as_by_tokenizers(
    make_tokenizer: Callable[..., Tokenizer], style: str, query: str, item: str, max_length: int
) -> None:
    tokenizer = make_tokenizer(style)
    template = InputTemplate.of(tokenizer, pair=True)
    a, b = (np.array(tokenizer.encode(text, add_special_tokens=False).ids, dtype=np.int64) for text in (query, item))
    ids, types = template.fill(*truncate_longest_first(a, b, max_length - template.n_special))
    tokenizer.enable_truncation(max_length, strategy="longest_first")
    expected = tokenizer.encode(query, item)
    assert (ids.tolist(), types.tolist()) == (expected.ids, expected.type_ids)


@pytest.mark.parametrize("style", ["bert", "roberta", "none"])
@given(text=_texts, max_length=st.integers(8, 24))
def test_single_texts_are_cut_and_joined_as_by_tokenizers(
    make_tokenizer: Callable[..., Tokenizer], style: str, text: str, max_length: int
) -> None:
    tokenizer = make_tokenizer(style)
    template = InputTemplate.of(tokenizer, pair=False)
    tokens = np.array(tokenizer.encode(text, add_special_tokens=False).ids, dtype=np.int64)
    ids, types = template.fill(tokens[: max_length - template.n_special])
    tokenizer.enable_truncation(max_length)
    expected = tokenizer.encode(text)
    assert (ids.tolist(), types.tolist()) == (expected.ids, expected.type_ids)


@given(lengths=st.lists(st.integers(0, 50), max_size=30), batch_size=st.integers(1, 9))
def test_batches_hold_every_input_once_longest_first(lengths: list[int], batch_size: int) -> None:
    batches = list(length_sorted_batches(np.array(lengths, dtype=np.int64), batch_size))
    order = [int(position) for batch in batches for position in batch]
    assert order == sorted(range(len(lengths)), key=lambda n: (-lengths[n], n))
    assert all(len(batch) == batch_size for batch in batches[:-1])

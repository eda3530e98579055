"""From texts to a transformer's inputs: each text is tokenised once, whatever it is paired with and however often."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tokenizers import Tokenizer

from crossknn.arrays import BoolArray, IntArray
from crossknn.errors import InputError

_TEXTS_AT_ONCE = 4096
"""A tokenizer's own account of a text takes 14 times the room of its ids."""


@dataclass(frozen=True)
class Tokens:
    """Token ids of texts, without special tokens.

    Attributes:
        ids: (n,) of all texts, one behind the other.
        starts: (n_texts,) where each begins.
        lengths: (n_texts,) of each.
    """

    ids: IntArray
    starts: IntArray
    lengths: IntArray

    @classmethod
    def of(cls, tokenizer: Tokenizer, texts: Sequence[str]) -> Tokens:
        """Of a tokenizer that neither pads nor truncates (:func:`plain`)."""
        ids, lengths = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.int64)]
        for start in range(0, len(texts), _TEXTS_AT_ONCE):
            some = tokenizer.encode_batch_fast(list(texts[start : start + _TEXTS_AT_ONCE]), add_special_tokens=False)
            ids += [np.array(encoding.ids, dtype=np.int64) for encoding in some]
            lengths.append(np.array([len(encoding.ids) for encoding in some], dtype=np.int64))
        each = np.concatenate(lengths)
        return cls(np.concatenate(ids), np.cumsum(each) - each, each)

    def take(self, rows: IntArray) -> Tokens:
        """Of some texts, each as often as it is named."""
        return Tokens(self.ids, self.starts[rows], self.lengths[rows])

    def truncated(self, lengths: IntArray | int) -> Tokens:
        """Without what is beyond a length, which may be each text's own."""
        return Tokens(self.ids, self.starts, np.minimum(self.lengths, lengths))


def plain(tokenizer: Tokenizer) -> Tokenizer:
    """A copy that neither pads nor truncates, whatever the tokenizer was used for before."""
    copy: Tokenizer = Tokenizer.from_str(tokenizer.to_str())
    copy.no_padding()
    copy.no_truncation()
    return copy


def truncate_longest_first(a: Tokens, b: Tokens, room: int) -> tuple[Tokens, Tokens, int]:
    """Cut the longer of two texts until both fit, then both alike: ``truncation="longest_first"`` of tokenizers.

    Returns:
        The same, and how many pairs were cut.
    """
    short = np.minimum(np.minimum(a.lengths, b.lengths), room // 2)
    over, first = a.lengths + b.lengths > room, a.lengths <= b.lengths
    of_a = np.where(over, np.where(first, short, room - short), a.lengths)
    of_b = np.where(over, np.where(first, room - short, short), b.lengths)
    return a.truncated(of_a), b.truncated(of_b), int(over.sum())


@dataclass(frozen=True)
class InputTemplate:
    """Where a tokenizer puts special tokens around one text (``a``) or two (``a``, ``b``); holds for any BERT-like one.

    ``pieces`` holds ids for special tokens, and the letters where texts go; ``types`` the token type of each piece.
    """

    pieces: tuple[int | str, ...]
    types: tuple[int, ...]

    @classmethod
    def of(cls, tokenizer: Tokenizer, *, pair: bool) -> InputTemplate:
        """Read off what the tokenizer does with a one-letter text, or two.

        Raises:
            InputError: it does not keep them.
        """
        encoding = tokenizer.encode("a", "a") if pair else tokenizer.encode("a")
        pieces: list[int | str] = []
        types: list[int] = []
        for token, kind, sequence, special in zip(
            encoding.ids, encoding.type_ids, encoding.sequence_ids, encoding.special_tokens_mask, strict=True
        ):
            piece: int | str = token if special or sequence is None else "ab"[sequence]
            if isinstance(piece, int) or piece not in pieces:
                pieces.append(piece)
                types.append(kind)
        if "a" not in pieces or (pair and "b" not in pieces):
            raise InputError(f"the tokenizer does not {'join two texts' if pair else 'keep a one-letter text'}")
        return cls(tuple(pieces), tuple(types))

    @property
    def n_special(self) -> int:
        """Special tokens in every input."""
        return sum(isinstance(piece, int) for piece in self.pieces)


@dataclass(frozen=True)
class TokenInputs:
    """Inputs of a transformer: a template, filled with the tokens of one text or two each.

    Attributes:
        template: where they go.
        a: of each input.
        b: of each input, where the template takes two.
    """

    template: InputTemplate
    a: Tokens
    b: Tokens | None = None

    @property
    def lengths(self) -> IntArray:
        """(n_inputs,) tokens of each, special ones included."""
        lengths = self.a.lengths + self.template.n_special
        return lengths if self.b is None else lengths + self.b.lengths

    @classmethod
    def of_second(cls, template: InputTemplate, texts: Tokens, max_length: int) -> tuple[TokenInputs, int]:
        """Texts where the second of two goes, with nothing in the first's place, and how many had to be cut."""
        room = max_length - template.n_special
        nothing = Tokens(texts.ids, np.zeros_like(texts.starts), np.zeros_like(texts.lengths))
        return cls(template, nothing, texts.truncated(room)), int((texts.lengths > room).sum())

    def within_second(self, rows: IntArray) -> BoolArray:
        """(len(rows), longest) which of what :meth:`padded` gives are tokens of the second text."""
        some = self.take(rows)
        assert some.b is not None  # a template of two texts
        before = self.template.pieces[: self.template.pieces.index("b")]
        start = some.a.lengths + sum(isinstance(piece, int) for piece in before)
        column = np.arange(int(some.lengths.max(initial=0)))
        inside: BoolArray = (column >= start[:, None]) & (column < (start + some.b.lengths)[:, None])
        return inside

    def take(self, rows: IntArray) -> TokenInputs:
        """Some of them."""
        return TokenInputs(self.template, self.a.take(rows), None if self.b is None else self.b.take(rows))

    def padded(self, rows: IntArray) -> dict[str, IntArray]:
        """``input_ids``, ``token_type_ids`` and ``attention_mask`` of some, each (len(rows), longest), zeros at the
        end."""
        some = self.take(rows)
        texts, lengths = {"a": some.a, "b": some.b}, some.lengths
        ids = np.zeros((len(rows), int(lengths.max(initial=0))), dtype=np.int64)
        types = np.zeros_like(ids)
        column = np.zeros(len(rows), dtype=np.int64)
        for piece, kind in zip(self.template.pieces, self.template.types, strict=True):
            if isinstance(piece, int):
                at = np.arange(len(rows)), column
                ids[at], types[at] = piece, kind
                column = column + 1
            elif (text := texts[piece]) is not None:
                row = np.repeat(np.arange(len(rows)), text.lengths)
                within = np.arange(len(row)) - np.repeat(np.cumsum(text.lengths) - text.lengths, text.lengths)
                at = row, column[row] + within
                ids[at], types[at] = text.ids[text.starts[row] + within], kind
                column = column + text.lengths
        mask = (np.arange(ids.shape[1]) < lengths[:, None]).astype(np.int64)
        return {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}


def batches(lengths: IntArray, *, max_inputs: int | None = None, max_tokens: int | None = None) -> list[IntArray]:
    """Positions of inputs in batches of like length, longest first (so memory peaks, or fails, at the start).

    Args:
        lengths: (n_inputs,) tokens of each.
        max_inputs: in a batch.
        max_tokens: tokens in a batch, padding included, of more than one input.
    """
    order = np.argsort(-lengths, kind="stable")
    found, start = [], 0
    while start < len(order):
        size = len(order) if max_inputs is None else max_inputs
        if max_tokens is not None:
            size = min(size, max(1, max_tokens // max(1, int(lengths[order[start]]))))
        found.append(order[start : start + size])
        start += size
    return found

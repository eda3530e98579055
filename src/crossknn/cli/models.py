"""Scorers and first stages named on the command line."""

from __future__ import annotations

import importlib
import os
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from crossknn.errors import IndexFileError, InputError, import_extra
from crossknn.first_stage import (
    BM25,
    Dense,
    FirstStage,
    Hybrid,
    LateInteraction,
    OnnxEncoder,
    RandomFirstStage,
    SentenceTransformersEncoder,
    TfIdf,
    WithStates,
    WithVectors,
)
from crossknn.onnx_model import OnnxOptions
from crossknn.scorers import CachedScorer, Fingerprint, OnnxScorer, Scorer, SentenceTransformersScorer
from crossknn.scorers.base import checked_scores

SCORER_HELP = (
    "Cross-encoder: a folder with model.onnx, 'st:NAME' for sentence-transformers (on a GPU in half precision: "
    "'st:NAME#float16'), either with '#max_length=512' behind for what is cut; a rerank service ('tei:URL', "
    "'vllm:URL#MODEL', 'cohere:MODEL', 'jina:MODEL'; its key in CROSSKNN_API_KEY), 'python:MODULE:NAME' for a scorer "
    "object of yours, or 'demo'."
)
FIRST_STAGE_HELP = (
    "Cheap retrieval: 'bm25', 'tfidf', a folder with a bi-encoder's model.onnx, 'st:NAME', 'random', or 'demo'; with "
    "'hybrid:' before a bi-encoder, n-grams of letters count as well, with 'states:' before that or a bi-encoder, "
    "what the cross-encoder makes of each item, and with 'late:' before any of these, which tokens meet "
    "('late:st:TOKENS+hybrid:st:VECTORS' takes two models)."
)

_KEYWORDS = ("bm25", "tfidf", "random", "demo")
"""Names that stay what they are where a folder has the same."""

Shortlisted = Annotated[
    int | None,
    typer.Option(
        "--shortlist",
        min=1,
        help="Let each query see only so many of the first stage's best, or as many as its budget where that is more.",
    ),
]


def open_scorer(spec: str, device: str = "cpu", cache: Path | None = None, *, named: bool = True) -> Scorer:
    """The scorer that a ``--scorer`` names, its scores kept in a cache if there is one.

    Args:
        spec: the name.
        device: where a model runs.
        cache: file of the cache.
        named: whether the user gave the name just now. A key is never sent to an address that only an index names, and
            a module that only an index names is not imported: it would run whatever the index's author put there.

    Raises:
        InputError: the name fits nothing.
        IndexFileError: only an index names the module.
        MissingExtraError: an optional dependency is missing.
    """
    scorer = _open_scorer(spec, device, named=named)
    return scorer if cache is None else CachedScorer(scorer, cache)


def _open_scorer(spec: str, device: str, *, named: bool) -> Scorer:
    kind, _, name = spec.partition(":")
    if kind == "st" and name:
        model, said = _split(name)
        dtype, max_length = _settings(said)
        return SentenceTransformersScorer(model, device=device, dtype=dtype or "float32", max_length=max_length)
    if kind == "python" and name:
        if not named:
            raise IndexFileError(
                f"the index names the scorer {spec}, a module that would be imported and run; if you trust it, give it "
                f"yourself: --scorer {spec}"
            )
        return _python_scorer(name)
    if kind in ("tei", "vllm", "cohere", "jina") and name:
        return _service(kind, name, named=named)
    folder, said = _split(spec)
    if folder == "demo" or Path(folder).is_dir():
        dtype, max_length = _settings(said)
        if dtype is not None:
            raise InputError(f"{spec}: an ONNX model has the precision it was exported in; leave out {dtype!r}")
        options = OnnxOptions(device=device, max_length=max_length)
        return OnnxScorer(demo_folder("cross_encoder") if folder == "demo" else folder, options)
    raise InputError(
        f"no scorer {spec!r}: there is no such folder, and it is not st:NAME[#DTYPE], tei:URL, vllm:URL#MODEL, "
        "cohere:MODEL, jina:MODEL, python:MODULE:NAME or demo"
    )


def _split(name: str) -> tuple[str, str]:
    """A model's name or folder, and what stands behind ``#``."""
    model, _, said = (name, "", "") if Path(name).is_dir() else name.partition("#")
    return model, said


def _settings(said: str) -> tuple[str | None, int | None]:
    """Precision and longest input, of ``float16,max_length=512`` or one of these.

    Raises:
        InputError: a length that is no number.
    """
    dtype, max_length = None, None
    for part in filter(None, said.split(",")):
        key, is_length, value = part.partition("max_length=")
        if not is_length:
            dtype = part
        elif key or not value.isdecimal() or int(value) < 8:
            raise InputError(f"max_length takes a number of tokens, 8 or more, as in #max_length=512; got {part!r}")
        else:
            max_length = int(value)
    return dtype, max_length


def open_first_stage(spec: str, device: str = "cpu", scorer: Scorer | None = None) -> FirstStage:
    """The first stage that a ``--first-stage`` names.

    Args:
        spec: the name.
        device: where a model runs.
        scorer: the cross-encoder whose hidden states ``states:`` reads.

    Raises:
        InputError: the name fits nothing.
        MissingExtraError: an optional dependency is missing.
    """
    kind, _, name = spec.partition(":")
    if spec == "bm25":
        return BM25()
    if spec == "tfidf":
        return TfIdf()
    if spec == "random":
        return RandomFirstStage()
    if spec == "demo":
        return Dense(OnnxEncoder(demo_folder("encoder"), OnnxOptions(device=device)))
    if kind == "st" and name:
        return Dense(SentenceTransformersEncoder(name, device=device))
    if kind == "hybrid" and name:
        beside = open_first_stage(name, device, scorer)
        if not isinstance(beside, Dense) or isinstance(beside, Hybrid | WithStates):
            raise InputError(f"hybrid takes a dual encoder, a folder, st:NAME or demo, not {name!r}")
        return Hybrid(beside.encoder)
    if kind == "states" and name:
        dense = open_first_stage(name, device, scorer)
        if not isinstance(dense, Dense):
            raise InputError(f"states takes a dual encoder, hybrid: before it or not, not {name!r}")
        return WithStates(dense, scorer)
    if kind == "late" and name:
        tokens, vectors = _late_parts(spec)
        dense = open_first_stage(vectors, device, scorer)
        first = dense if tokens == vectors else open_first_stage(tokens, device, scorer)
        if not isinstance(first, Dense) or not isinstance(dense, Dense):
            raise InputError(f"late takes a bi-encoder, hybrid: before it or not, or two and + between, not {name!r}")
        return WithVectors(LateInteraction(first.encoder), dense)
    if Path(spec).is_dir():
        return Dense(OnnxEncoder(spec, OnnxOptions(device=device)))
    raise InputError(
        f"no first stage {spec!r}: there is no such folder, and it is not bm25, tfidf, st:NAME, random, demo, or one "
        "of these dual encoders with hybrid:, states: or late: before it"
    )


def _late_parts(spec: str) -> tuple[str, str]:
    """What gives the tokens and what the vectors in ``late:TOKENS+VECTORS``, or ``late:BOTH``."""
    both = spec.removeprefix("late:")
    for plus in re.finditer(r"\+", both):
        tokens, vectors = both[: plus.start()], both[plus.end() :]
        if vectors.startswith(("st:", "hybrid:", "states:")) or vectors == "demo" or Path(vectors).is_dir():
            return tokens, vectors
    return both, both


def around_encoder(spec: str) -> tuple[str, str]:
    """What stands before the dual encoder whose vectors a first stage has, and that encoder.

    With another encoder in place the tokens of late interaction stay those of the old one.

    >>> around_encoder("late:hybrid:st:NAME")
    ('late:st:NAME+hybrid:', 'st:NAME')
    """
    late = spec.startswith("late:")
    tokens, vectors = _late_parts(spec) if late else ("", spec)
    before, encoder = _beside(vectors)
    return (f"late:{_beside(tokens)[1]}+{before}" if late else before), encoder


def _beside(spec: str) -> tuple[str, str]:
    """``states:hybrid:``, as much of it as there is, and what follows."""
    found = re.fullmatch(r"((?:states:)?(?:hybrid:)?)(.*)", spec, re.DOTALL)
    assert found is not None
    return found[1], found[2]


def trial_rate(scorer: Scorer, queries: Sequence[str], items: Sequence[str], pairs: int) -> float:
    """CE calls per second, tried on random pairs (so many calls, the first eighth of them to warm up)."""
    rng = np.random.default_rng(0)
    rows, columns = rng.integers(len(queries), size=pairs), rng.integers(len(items), size=pairs)
    bound, warm = scorer.prepare(items), pairs // 8
    if warm:
        checked_scores(bound, queries, rows[:warm], columns[:warm])
    start = time.perf_counter()
    checked_scores(bound, queries, rows[warm:], columns[warm:])
    return (pairs - warm) / (time.perf_counter() - start)


def absolute(spec: str) -> str:
    """A folder's full path, so that an index finds its models from anywhere; other names as they are."""
    kind, _, name = spec.partition(":")
    if kind == "late":
        tokens, vectors = _late_parts(spec)
        return f"late:{absolute(tokens)}" + ("" if vectors == tokens else f"+{absolute(vectors)}")
    if kind == "st":
        return f"st:{absolute(name)}"
    if kind in ("hybrid", "states"):
        return f"{kind}:{absolute(name)}"
    folder, said = _split(spec)
    known = folder not in _KEYWORDS and Path(folder).is_dir()
    return str(Path(folder).resolve()) + (f"#{said}" if said else "") if known else spec


def demo_folder(model: str) -> Path:
    """Folder of one of the demo's models, from the distribution ``crossknn-demo``."""
    demo = import_extra("crossknn_demo", "demo")
    return Path(demo.MODELS) / model


def _service(kind: str, name: str, *, named: bool) -> Scorer:
    from crossknn.scorers import http  # its HTTP library takes a moment to import

    key = os.environ.get("CROSSKNN_API_KEY") if named or kind in ("cohere", "jina") else None
    url, _, model = name.partition("#")
    if kind == "vllm" and not model:
        raise InputError(f"vllm needs the name of the model too: vllm:{url}#MODEL")
    api: http.RerankAPI
    if kind == "tei":
        api = http.TEI(name, api_key=key)
    elif kind == "vllm":
        api = http.VLLM(url, model=model, api_key=key)
    else:
        api = (http.Cohere if kind == "cohere" else http.Jina)(model=name, api_key=key)
    return http.HTTPScorer(api)


def _python_scorer(name: str) -> Scorer:
    module_name, _, attribute = name.partition(":")
    if not attribute:
        raise InputError(f"no scorer in 'python:{name}'; write python:MODULE:NAME")
    sys.path.insert(0, "")
    try:
        scorer = getattr(importlib.import_module(module_name), attribute)
    except Exception as error:  # whatever the user's module does when it is imported
        raise InputError(f"cannot import the scorer {attribute!r} from {module_name!r}: {error}") from error
    finally:
        sys.path.remove("")
    if isinstance(scorer, type):
        raise InputError(f"{name} is a class; make an instance of it, and name that")
    if not hasattr(scorer, "prepare") or not isinstance(getattr(scorer, "fingerprint", None), Fingerprint):
        raise InputError(f"{name} is a {type(scorer).__name__}, not a scorer; wrap a function in FunctionScorer")
    found: Scorer = scorer
    return found

"""Requests made from the service's own OpenAPI document: what it answers is what the document says."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.specs.openapi.checks import positive_data_acceptance

from crossknn import BM25, FunctionScorer, Index
from crossknn.server import ServerOptions, create_app


def _score(pairs: Any) -> list[float]:
    return [float(len(set(query.split()) & set(item.split()))) for query, item in pairs]


_index = Index.build(
    [f"{a} {b}" for a in ("red", "blue", "big") for b in ("stone", "tree", "house")],
    scorer=FunctionScorer(_score, name="words in common"),
    first_stage=BM25(),
)
_app = create_app(_index, ServerOptions(deadline_seconds=5))
_app.router.lifespan_context = lambda _: nullcontext()  # each call would start and stop it
_schema = schemathesis.openapi.from_asgi("/openapi.json", _app)


@_schema.parametrize()
@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_it_answers_as_its_document_says(case: Any) -> None:
    # limits such as "a query is not blank" are no part of JSON Schema, so 422 may answer what the document allows
    case.call_and_validate(excluded_checks=[positive_data_acceptance])

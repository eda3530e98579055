"""What a service allows, and how it batches."""

from __future__ import annotations

from dataclasses import dataclass, fields

from crossknn.errors import InputError


@dataclass(frozen=True)
class ServerOptions:
    """Limits and settings of a service.

    Attributes:
        token: clients must send ``Authorization: Bearer TOKEN``; None asks nothing. Never shown.
        max_body_bytes: larger requests are refused (413).
        max_k: hits a search may ask for.
        max_budget: CE calls that one query may cost.
        max_queries: queries of one request.
        max_documents: documents of one ``/rerank`` request.
        max_text: characters of a query or document.
        max_filter: values, or ids, that a filter may name.
        queue: searches taken at the same time; more are refused (429).
        body_seconds: a request's body must have come in by then (408).
        deadline_seconds: a request that takes longer is given up (504).
        batch_pairs: (query, item) pairs scored at a time, from all searches under way. More fill a GPU better; fewer
            give a new search its turn sooner.
        wait_ms: how long the first search after a pause is held for others to share its batch; nobody else waits.
        allow_origins: web origins that may call the service from a browser; none unless told.
    """

    token: str | None = None
    max_body_bytes: int = 1_000_000
    max_k: int = 1_000
    max_budget: int = 5_000
    max_queries: int = 64
    max_documents: int = 1_000
    max_text: int = 10_000
    max_filter: int = 10_000
    queue: int = 256
    body_seconds: float = 10.0
    deadline_seconds: float = 30.0
    batch_pairs: int = 256
    wait_ms: float = 2.0
    allow_origins: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            least = 0 if field.name == "wait_ms" else 1e-9
            if isinstance(value, int | float) and not value >= least:
                raise InputError(f"{field.name} must be above 0, got {value}")
        if self.token is not None and not self.token.strip():
            raise InputError("the token is empty; leave it out to ask for none")

    def __repr__(self) -> str:
        """Without the token."""
        shown = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "token"}
        return f"ServerOptions(token={'set' if self.token else None}, {shown})"

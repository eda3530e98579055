"""Items and queries from files."""

from crossknn.inputs.tables import read_items, read_queries

__all__ = ["read_items", "read_queries"]

"""Where item vectors are searched."""

from crossknn.vectors.exact import inner_products, ranks_of, top_k
from crossknn.vectors.moving import MovingQuery, best_of_each

__all__ = ["MovingQuery", "best_of_each", "inner_products", "ranks_of", "top_k"]

"""Where item vectors are searched."""

from crossknn.vectors.exact import inner_products, top_k

__all__ = ["inner_products", "top_k"]

"""From the sparse score matrix to item vectors."""

from crossknn.factorization.item_model import ItemModel, Normalisation
from crossknn.factorization.transductive import TransductiveOptions, factorize

__all__ = ["ItemModel", "Normalisation", "TransductiveOptions", "factorize"]

"""From the scores paid for to item vectors. A new way is one file with a class that follows ``base.Factorization``."""

from crossknn.factorization.base import Factorization
from crossknn.factorization.cur import CUR
from crossknn.factorization.defaults import default_factorization
from crossknn.factorization.distillation import Distillation
from crossknn.factorization.inductive import MFInductive
from crossknn.factorization.item_model import GatedMLP, ItemModel, LinearMap, Normalisation
from crossknn.factorization.side_information import MFSideInformation
from crossknn.factorization.transductive import MFTransductive
from crossknn.factorization.transductive_adamw import MFTransductiveAdamW

__all__ = [
    "CUR",
    "Distillation",
    "Factorization",
    "GatedMLP",
    "ItemModel",
    "LinearMap",
    "MFInductive",
    "MFSideInformation",
    "MFTransductive",
    "MFTransductiveAdamW",
    "Normalisation",
    "default_factorization",
]

"""Names for the array types that cross module borders. Shapes stand in the docstrings."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

FloatArray: TypeAlias = NDArray[np.floating]
"""Scores are float64; item vectors are float32, possibly memory-mapped."""

IntArray: TypeAlias = NDArray[np.int64]
"""Positions of queries or items."""

BoolArray: TypeAlias = NDArray[np.bool_]
"""Masks."""

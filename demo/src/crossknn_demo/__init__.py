"""Models of the crossknn demo. How they were made and how good they are: README.md of this distribution."""

from pathlib import Path

MODELS = Path(__file__).parent / "models"
"""Holds ``cross_encoder`` and ``encoder``, each with model.onnx, tokenizer.json and config.json."""

"""Recipes of fine-tuning: named sets of defaults."""

from math import inf
from typing import Any, Literal

__all__ = ["RECIPES", "Recipe"]

Recipe = Literal["default", "chollet"]

RECIPES: dict[str, dict[str, Any]] = {
    "default": {},
    "chollet": {
        "epochs": 100,
        "patience": 100,
        "batch_size": 20,
        "optimizer": "rmsprop",
        "learning_rate": 1e-5,
        "backbone_lr_factor": 1.0,
        "layer_decay": 1.0,
        "schedule": "constant",
        "warm_up": 0.0,
        "weight_decay": 0.0,
        "label_smoothing": 0.0,
        "clip": inf,
        "augment": "standard",
    },
}
"""Recipe to the fields of `FinetuneSettings` that have another default with it.

``chollet`` is that of Chollet 2017, Deep Learning with Python, section 5.3.2.
"""

"""Frozen bases: models, layers and aliases, transforms, weights, fingerprint."""

from bottleneck.bases.frozen import SCHEMA_VERSION, FrozenBase
from bottleneck.bases.models import find_model, model_names, timm_names
from bottleneck.bases.network import Network
from bottleneck.bases.transforms import Transform

__all__ = [
    "SCHEMA_VERSION",
    "FrozenBase",
    "Network",
    "Transform",
    "find_model",
    "model_names",
    "timm_names",
]

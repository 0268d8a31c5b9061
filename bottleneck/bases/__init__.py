"""Frozen bases: models, layers and aliases, transforms, weights, fingerprint."""

from bottleneck.bases.frozen import SCHEMA_VERSION, FrozenBase
from bottleneck.bases.layers import Layer
from bottleneck.bases.libraries import timm_names
from bottleneck.bases.models import Model, PretrainedWeights
from bottleneck.bases.network import Network
from bottleneck.bases.transforms import INTERPOLATIONS, Transform
from bottleneck.bases.zoo import PLUGIN_GROUP, find_model, model_names

__all__ = [
    "INTERPOLATIONS",
    "PLUGIN_GROUP",
    "SCHEMA_VERSION",
    "FrozenBase",
    "Layer",
    "Model",
    "Network",
    "PretrainedWeights",
    "Transform",
    "find_model",
    "model_names",
    "timm_names",
]

"""Frozen bases: models, layers and aliases, transforms, weights, fingerprint."""

from bottleneck.bases.finetuned import WEIGHTS_NAME, is_finetuned, seen_digests, write_finetuned
from bottleneck.bases.frozen import SCHEMA_VERSION, FrozenBase
from bottleneck.bases.graphs import traced
from bottleneck.bases.layers import Layer
from bottleneck.bases.libraries import timm_names
from bottleneck.bases.models import Model, PretrainedWeights
from bottleneck.bases.network import Network
from bottleneck.bases.precision import find_devices
from bottleneck.bases.splitting import ALL, Split, split_network, upper_part
from bottleneck.bases.transforms import Transform
from bottleneck.bases.weights import load_weights
from bottleneck.bases.zoo import PLUGIN_GROUP, find_model, model_names

__all__ = [
    "ALL",
    "PLUGIN_GROUP",
    "SCHEMA_VERSION",
    "WEIGHTS_NAME",
    "FrozenBase",
    "Layer",
    "Model",
    "Network",
    "PretrainedWeights",
    "Split",
    "Transform",
    "find_devices",
    "find_model",
    "is_finetuned",
    "load_weights",
    "model_names",
    "seen_digests",
    "split_network",
    "timm_names",
    "traced",
    "upper_part",
    "write_finetuned",
]

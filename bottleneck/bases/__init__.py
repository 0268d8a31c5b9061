"""Frozen bases: models, layers and aliases, transforms, weights and fingerprints.

The names below describe models and do not import torch. `FrozenBase` is in
`bottleneck.bases.frozen`, `Network` in `bottleneck.bases.network`, `split_network` in
`bottleneck.bases.splitting`.
"""

from bottleneck.bases.finetuned import (
    WEIGHTS_NAME,
    digests_of_network,
    is_finetuned,
    seen_digests,
    write_finetuned,
)
from bottleneck.bases.models import Model, PretrainedWeights, Transform
from bottleneck.bases.precision import find_devices
from bottleneck.bases.sources import SOURCES
from bottleneck.bases.zoo import ModelRow, find_model, list_models, model_names, timm_release

__all__ = [
    "SOURCES",
    "WEIGHTS_NAME",
    "Model",
    "ModelRow",
    "PretrainedWeights",
    "Transform",
    "digests_of_network",
    "find_devices",
    "find_model",
    "is_finetuned",
    "list_models",
    "model_names",
    "seen_digests",
    "timm_release",
    "write_finetuned",
]

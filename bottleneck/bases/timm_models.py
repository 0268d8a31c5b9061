"""timm's own models and their weights, and conversions by timm."""

import math
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bottleneck.bases.hub import Repository
from bottleneck.bases.model_files import read_tensors
from bottleneck.bases.models import Model, PretrainedWeights, StateDict, Transform
from bottleneck.errors import UnknownNameError, UsageError, did_you_mean, is_out_of_memory

if TYPE_CHECKING:
    from timm.models import PretrainedCfg
    from torch import nn

__all__ = ["build_timm", "converted_by_timm", "from_timm", "loaded_by_timm", "transform_of_timm"]


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


def build_timm(name: str, image_size: tuple[int, int] | None = None) -> "nn.Module":
    """Build a network of timm with arbitrary weights.

    Parameters
    ----------
    name : str
        timm's name of the model.
    image_size : (int, int), optional
        Height and width in pixels of the images, for networks that are built for one size.

    Returns
    -------
    torch.nn.Module

    Raises
    ------
    RuntimeError
        timm has no such model.
    """
    import timm

    module: Any = timm.create_model(name, pretrained=False)
    config = module.pretrained_cfg
    usual = (image_size, tuple(config.get("input_size", ())[-2:]))
    if image_size and config.get("fixed_input_size") and usual[0] != usual[1]:
        module = timm.create_model(name, pretrained=False, img_size=image_size)
    return module  # type: ignore[no-any-return]


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

"""OpenCLIP's image towers: of its models by name, in folders and in repositories of the Hub.

The network is what OpenCLIP calls ``model.visual``, and its output the embedding that OpenCLIP
compares with texts, before it is scaled to unit length. Texts are not loaded.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

from bottleneck.bases.hub import Repository
from bottleneck.bases.model_files import (
    Folder,
    ModelFiles,
    described,
    read_config,
    read_tensors,
    weights_file,
)
from bottleneck.bases.models import Model, PretrainedWeights, StateDict, Transform
from bottleneck.errors import (
    UnknownNameError,
    UsageError,
    WeightsError,
    did_you_mean,
    first_line,
    reworded,
)
from bottleneck.extras import import_extra

__all__ = ["from_open_clip"]

_CONFIG = "open_clip_config.json"
_WEIGHTS = (
    *("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors"),
    *("open_clip_pytorch_model.bin", "open_clip_pytorch_model.pth"),
)
_NO_TEXTS = {"context_length": 1, "vocab_size": 1, "width": 1, "heads": 1, "layers": 1}
_TOWER = "visual."


def from_open_clip(wanted: str, name: str) -> Model:
    """Return the image tower of a model of OpenCLIP.

    Parameters
    ----------
    wanted : str
        ``NAME`` or ``NAME/TAG`` of OpenCLIP's own list; ``hf-hub:ORG/NAME``; or ``local-dir:DIR``,
        a folder with ``open_clip_config.json``.
    name : str
        Name of the model as given by the user.

    Returns
    -------
    Model

    Raises
    ------
    MissingExtraError
        OpenCLIP is not installed.
    PathMissingError, UnknownNameError
        There is no such model.
    UsageError
        The model's preprocessing is not supported.
    WeightsError
        Its configuration is damaged, or cannot be downloaded.
    """
    import_extra("open_clip", f"the base {name!r}", "open-clip-torch", extra="open-clip")
    kind, _, place = wanted.partition(":")
    if place and kind in _PLACES:
        return _from_files(_PLACES[kind](place, name))
    return _from_list(wanted, name)


_PLACES: Mapping[str, type[Folder] | type[Repository]] = {"local-dir": Folder, "hf-hub": Repository}


def _from_list(wanted: str, name: str) -> Model:
    """Return a model of OpenCLIP's own list, with the weights that it offers for it."""
    import open_clip

    names = open_clip.list_models()
    listed, _, tag = (wanted, "", "") if wanted in names else wanted.rpartition("/")
    if listed not in names:
        near = did_you_mean(listed or wanted, names)
        raise UnknownNameError(
            f"no model {listed or wanted!r} in OpenCLIP; 'open_clip.list_models()' lists them "
            f"all{near}"
        )
    tags = open_clip.list_pretrained_tags_by_model(listed)
    found = {each: open_clip.get_pretrained_cfg(listed, each) for each in tags}
    offered = {each: its for each, its in found.items() if its.get("hf_hub")}
    if tag and tag not in offered:
        raise UnknownNameError(
            f"no weights {tag!r} for {listed} in OpenCLIP; it has {', '.join(offered) or 'none'}"
            f"{did_you_mean(tag, offered)}"
        )
    config = open_clip.get_model_config(listed)
    chosen = tag or next(iter(offered), "")
    quick = {each: _is_quick(config, its) for each, its in offered.items()}
    # The activation function is a part of the network, and decided by the weights.
    config["quick_gelu"] = quick.get(chosen, _is_quick(config, {}))
    weights = {
        each: _weights_of(offered[each], config, name)
        for each in sorted(offered, key=lambda each: each != chosen)
        if quick[each] == config["quick_gelu"]
    }
    return _model(name, config, weights, _transform(config, offered.get(chosen, {}), name))


def _is_quick(config: Mapping[str, Any], weights: Mapping[str, Any]) -> bool:
    return bool(config.get("quick_gelu") or weights.get("quick_gelu"))


def _weights_of(offered: Mapping[str, Any], config: Any, name: str) -> PretrainedWeights:
    transform = _transform(config, offered, name)
    hub, _, file = offered["hf_hub"].rpartition("/")
    files = Repository(hub, name)
    stem = file.rpartition(".")[0]
    names = (f"{stem}.safetensors", file) if file else _WEIGHTS
    return PretrainedWeights(partial(_load, files, names, config), transform, files.place)


def _from_files(files: ModelFiles) -> Model:
    content = read_config(files, _CONFIG)
    config = content.get("model_cfg")
    if not isinstance(config, dict) or not {"embed_dim", "vision_cfg"} <= config.keys():
        raise UnknownNameError(
            f"{_CONFIG} of {files.name!r} does not describe a model of OpenCLIP: it has no "
            f"model_cfg with embed_dim and vision_cfg"
        )
    transform = _transform(config, content.get("preprocess_cfg") or {}, files.name)
    load = partial(_load, files, (*_WEIGHTS, "model.safetensors", "pytorch_model.bin"), config)
    weights = {"pretrained": PretrainedWeights(load, transform, files.place)}
    return _model(files.name, config, weights, transform)


def _model(
    name: str,
    config: Mapping[str, Any],
    weights: Mapping[str, PretrainedWeights],
    transform: Transform,
) -> Model:
    decisive = {key: config.get(key) for key in ("embed_dim", "vision_cfg", "quick_gelu")}
    vision = config["vision_cfg"]
    kind = vision.get("timm_model_name") or f"visual-{vision.get('width')}x{vision.get('layers')}"
    return Model(
        name=name,
        architecture=described(f"open_clip:{kind}", decisive),
        build=lambda _: _build(config),
        transform=transform,
        weights=weights,
        convert=partial(_tower, config=config),
    )


def _build(config: Mapping[str, Any]) -> Any:
    """Build the image tower; its layers have OpenCLIP's names inside ``visual``."""
    tower = _whole(config).visual
    tower.num_classes = 0  # as timm says that the output is an embedding, not of a classifier
    if getattr(tower, "class_embedding", None) is not None:
        tower.num_prefix_tokens, tower.class_token = 1, True
    elif hasattr(tower, "trunk"):
        tower.num_prefix_tokens = getattr(tower.trunk, "num_prefix_tokens", 0)
        tower.class_token = getattr(tower.trunk, "cls_token", None) is not None or None
    return tower


def _whole(config: Mapping[str, Any]) -> Any:
    """Build a model with the smallest text tower, as OpenCLIP builds none without."""
    import open_clip

    vision = {**config["vision_cfg"], "output_tokens": False, "timm_model_pretrained": False}
    quick = bool(config.get("quick_gelu"))
    return open_clip.CLIP(config["embed_dim"], vision, _NO_TEXTS, quick_gelu=quick)


def _load(files: ModelFiles, names: tuple[str, ...], config: Mapping[str, Any]) -> StateDict:
    return _tower(read_tensors(weights_file(files, *names)), config)


def _tower(content: Mapping[Any, Any], config: Mapping[str, Any]) -> StateDict:
    """Return the tensors of a model's image tower, with OpenCLIP's current names."""
    import torch
    from open_clip.convert import convert_state_dict

    state = content.get("state_dict", content)
    state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    with torch.device("meta"):
        state = convert_state_dict(_whole(config), state)
    return {
        name.removeprefix(_TOWER): tensor
        for name, tensor in state.items()
        if name.startswith(_TOWER)
    }


def _transform(config: Mapping[str, Any], preprocessing: Mapping[str, Any], name: str) -> Transform:
    from open_clip.transform import PreprocessCfg, merge_preprocess_dict

    def failed(error: Exception) -> WeightsError:
        return WeightsError(
            f"the preprocessing of {name!r} is not valid ({type(error).__name__}: "
            f"{first_line(error)})"
        )

    with reworded(failed):
        found = PreprocessCfg(**merge_preprocess_dict(PreprocessCfg(), dict(preprocessing)))
        size = config["vision_cfg"].get("image_size", 224)
        height, width = size if isinstance(size, list | tuple) else (size, size)
        mean, std = tuple(map(float, found.mean)), tuple(map(float, found.std))
    if found.resize_mode not in {"shortest", "squash"}:
        raise UsageError(
            f"{name} pads its images with a border, which is not supported; choose another model"
        )
    return Transform(
        resize=(height, width),
        crop=(height, width),
        interpolation="bilinear" if found.interpolation == "bilinear" else "bicubic",
        mean=mean,
        std=std,
        squash=found.resize_mode == "squash",
    )

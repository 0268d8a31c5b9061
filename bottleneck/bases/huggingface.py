"""Image models of Transformers, in folders and in repositories of the Hugging Face Hub.

A checkpoint of a classifier is built by `AutoModelForImageClassification`, any other by
`AutoModel`. The output of the network is one tensor, the first of these that the model has: the
logits; the image features that are compared with texts (`get_image_features`); `pooler_output`; the
class token after the last normalisation; all tokens. Poolers like BERT's, a dense layer with tanh,
are left out, because few checkpoints of images have trained ones.
"""

import inspect
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from bottleneck.bases.hub import Repository
from bottleneck.bases.model_files import (
    Folder,
    ModelFiles,
    described,
    found,
    read_config,
    weights_file,
)
from bottleneck.bases.models import Model, PretrainedWeights, StateDict, Transform
from bottleneck.errors import (
    UnknownNameError,
    UsageError,
    first_line,
    reworded,
)
from bottleneck.extras import import_extra

__all__ = ["from_transformers"]

_CONFIG = "config.json"
_PROCESSORS = ("preprocessor_config.json", "processor_config.json")
_INDEX = "model.safetensors.index.json"
_WEIGHTS = ("model.safetensors", _INDEX, "pytorch_model.bin")
_CLASSIFIER = "ForImageClassification"
_UNIMPORTANT = {
    *("_name_or_path", "architectures", "transformers_version", "dtype", "torch_dtype"),
    *("id2label", "label2id", "problem_type", "output_attentions", "output_hidden_states"),
    *("return_dict", "use_cache", "text_config", "text_config_dict", "vision_config_dict"),
}
"""Entries of a configuration that do not change what images become."""
_NO_IMAGES = ("text_", "logit_")


def from_transformers(wanted: str, name: str) -> Model:
    """Return an image model of Transformers.

    Parameters
    ----------
    wanted : str
        A folder, as `save_pretrained` writes it with the model and its image processor; else
        ``ORG/NAME`` or ``ORG/NAME@REVISION`` on the Hugging Face Hub.
    name : str
        Name of the model as given by the user.

    Returns
    -------
    Model

    Raises
    ------
    MissingExtraError
        Transformers is not installed.
    UnknownNameError
        There is no such model, or it is no image model.
    UsageError
        The model or its preprocessing is not supported.
    WeightsError
        Its configuration is damaged, or cannot be downloaded.
    """
    import_extra("transformers", f"the base {name!r}", "transformers", extra="transformers")
    is_folder = os.path.isdir(wanted) or wanted.startswith((".", "/"))  # noqa: PTH112
    files = Folder(wanted, name) if is_folder else Repository(wanted, name)
    content = read_config(files, _CONFIG)
    if not isinstance(content.get("model_type"), str):
        timms = "architecture" in content
        hint = "; it is timm's: give it as hf-hub:ORG/NAME or local-dir:FOLDER" if timms else ""
        raise UnknownNameError(
            f"{_CONFIG} of {name!r} does not describe a model of Transformers: it has no "
            f"model_type{hint}"
        )
    config = _config(weights_file(files, _CONFIG).parent, content, name)
    transform = _transform(files)
    load = partial(_load, files, config)
    return Model(
        name=name,
        architecture=described(f"transformers:{_kind(config)}", _decisive(content)),
        build=lambda _: _build(config, name),
        transform=transform,
        weights={"pretrained": PretrainedWeights(load, transform, files.place, _WEIGHTS[0])},
    )


def _config(folder: Path, content: Mapping[str, Any], name: str) -> Any:
    import transformers

    def failed(error: Exception) -> UsageError:
        if "auto_map" in content:
            return UsageError(
                f"{name} needs Python code from its repository, which is not run; choose a model "
                f"that Transformers has itself"
            )
        return UsageError(
            f"Transformers {transformers.__version__} cannot read {_CONFIG} of {name} with "
            f"model_type {content['model_type']!r} ({first_line(error)}); install another version"
        )

    with reworded(failed), _quiet():
        return transformers.AutoConfig.from_pretrained(str(folder), trust_remote_code=False)


def _decisive(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of a configuration that decide what images become."""
    return {
        key: _decisive(value) if isinstance(value, dict) else value
        for key, value in content.items()
        if key not in _UNIMPORTANT
    }


def _kind(config: Any) -> str:
    classifies = _is_classifier(config)
    return f"{config.model_type}-classifier" if classifies else str(config.model_type)


def _is_classifier(config: Any) -> bool:
    return any(each.endswith(_CLASSIFIER) for each in config.architectures or ())


def _auto(config: Any) -> Any:
    import transformers

    return (
        transformers.AutoModelForImageClassification
        if _is_classifier(config)
        else transformers.AutoModel
    )


def _build(config: Any, name: str) -> Any:
    """Build the network: a model of Transformers whose `forward` maps pixels to one tensor."""

    def failed(error: Exception) -> UsageError:
        return UsageError(f"{name} cannot be built by Transformers ({first_line(error)})")

    with reworded(failed), _quiet():
        return _of_images(_auto(config).from_config(config), name)


def _of_images(model: Any, name: str) -> Any:
    """Leave out what sees no images, and let `forward` return one tensor."""
    compares = hasattr(model, "get_image_features")
    if not compares and model.main_input_name != "pixel_values":
        raise UnknownNameError(
            f"{name} is not an image model: {type(model).__name__} takes {model.main_input_name}"
        )
    for part in [*model._modules, *model._parameters]:  # noqa: SLF001 - all of both kinds
        if compares and part.startswith(_NO_IMAGES):
            delattr(model, part)
    if hasattr(getattr(model, "pooler", None), "dense"):
        model.pooler = None
    kind = type(model)
    compute = kind.get_image_features if compares else kind.forward
    accepted = inspect.signature(compute).parameters
    # Images of another size than that of the weights; others are not changed by it.
    options = {each: True for each in ("interpolate_pos_encoding",) if each in accepted}

    def forward(self: Any, images: Any) -> Any:
        return _one_tensor(self, compute(self, pixel_values=images, **options), name)

    model.__class__ = type(kind.__name__, (kind,), {"forward": forward})
    if not _is_classifier(model.config):
        model.num_classes = 0  # as timm says that the output is an embedding, not of a classifier
    prefix = _prefix_tokens(model)
    if prefix:
        model.num_prefix_tokens, model.class_token = prefix, True
    return model.eval()


def _prefix_tokens(model: Any) -> int:
    """Return the number of tokens before those of the patches, a class token and registers."""
    for module in model.modules():
        if any(hasattr(module, each) for each in ("cls_token", "class_embedding")):
            return 1 + int(getattr(model.config, "num_register_tokens", 0) or 0)
    return 0


def _one_tensor(model: Any, output: Any, name: str) -> Any:
    if _is_tensor(output):
        return output
    for key in ("logits", "pooler_output", "last_hidden_state"):
        value: Any = getattr(output, key, None)
        if _is_tensor(value):
            classed = key == "last_hidden_state" and getattr(model, "class_token", None)
            return value[:, 0] if classed else value
    raise UsageError(
        f"{name} gives no tensor for an image, but {type(output).__name__}; choose another model"
    )


def _is_tensor(value: Any) -> bool:
    import torch

    return isinstance(value, torch.Tensor | torch.fx.Proxy)


def _load(files: ModelFiles, config: Any) -> StateDict:
    """Read the weights as Transformers does, without those that the checkpoint lacks."""
    file = weights_file(files, *_WEIGHTS)
    if file.name == _INDEX:
        for shard in sorted(set(read_config(files, _INDEX)["weight_map"].values())):
            weights_file(files, shard)
    with _quiet():
        model, told = _auto(config).from_pretrained(
            str(file.parent), config=config, output_loading_info=True, trust_remote_code=False
        )
    lacking = {*told["missing_keys"], *(each[0] for each in told["mismatched_keys"])}
    return {name: each for name, each in model.state_dict().items() if name not in lacking}


@contextmanager
def _quiet() -> Iterator[None]:
    """Show none of Transformers' warnings and progress bars, which repeat what we tell."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _transform(files: ModelFiles) -> Transform:
    """Return the preprocessing of a model's own image processor."""
    import transformers

    path = found(files, *_PROCESSORS)
    if path is None:
        raise UnknownNameError(
            f"{files.name} is not an image model, or was saved without its image processor: it "
            f"has no {_PROCESSORS[0]} in {files.place!r}; write it with "
            f"'AutoImageProcessor.from_pretrained(ORIGINAL).save_pretrained(FOLDER)'"
        )

    def failed(error: Exception) -> UnknownNameError:
        return UnknownNameError(
            f"{path.name} of {files.name} does not describe an image processor of Transformers "
            f"({first_line(error)}); choose an image model"
        )

    with reworded(failed), _quiet():
        processor = transformers.AutoImageProcessor.from_pretrained(
            str(path.parent), trust_remote_code=False
        )
    unsupported = UsageError(
        f"{type(processor).__name__} of {files.name} does more to an image than to resize, crop "
        f"and normalise it, which is not supported; choose another model"
    )
    try:
        transform = _as_transform(processor)
        same = _is_same(transform, processor)
    except Exception as error:
        raise unsupported from error
    if not same:
        raise unsupported
    return transform


def _as_transform(processor: Any) -> Transform:
    from PIL import Image

    def value(key: str, *, default: Any = None) -> Any:
        return getattr(processor, key, default)

    size = dict(value("size"))
    crop = dict(value("crop_size") or {}) if value("do_center_crop") else {}
    squash = "height" in size
    box = (size["height"], size["width"]) if squash else (size["shortest_edge"],) * 2
    taken = (crop["height"], crop["width"]) if crop else box
    if (share := value("crop_pct")) and not squash:  # as ConvNeXt has it
        squash = box[0] >= _CROPPED_BELOW
        box = box if squash else (int(box[0] / share),) * 2
    scale = 255 * value("rescale_factor", default=1 / 255) if value("do_rescale") else 255
    shift = 1 if value("rescale_offset") else 0
    mean, std = value("image_mean"), value("image_std")
    if not value("do_normalize"):
        mean, std = (0,) * 3, (1,) * 3
    return Transform(
        resize=box,
        crop=taken,
        interpolation=Image.Resampling(int(value("resample"))).name.lower(),
        mean=tuple((each + shift) / scale for each in mean),
        std=tuple(each / scale for each in std),
        squash=squash,
    )


_CROPPED_BELOW = 384
"""Side in pixels from which on ConvNeXt's processor squashes images instead of cropping them."""
_SAMPLES = ((400, 300), (300, 420))
_TOLERANCE = 0.02
"""Mean difference of pixels, in units of the range, for the same filter in another arithmetic."""


def _is_same(transform: Transform, processor: Any) -> bool:
    """Compare with the processor itself, on a wide and on a tall image."""
    import numpy as np

    for width, height in _SAMPLES:
        y, x = np.mgrid[:height, :width]
        image = np.stack([x * 255 // width, y * 255 // height, (x + y) % 256], -1).astype("uint8")
        ours = transform(image).numpy()
        theirs = np.asarray(processor(images=image, return_tensors="np")["pixel_values"][0])
        if ours.shape != theirs.shape:
            return False
        spread = np.array(transform.std).reshape(3, 1, 1)
        if (np.abs(ours - theirs) * spread).mean() > _TOLERANCE:
            return False
    return True

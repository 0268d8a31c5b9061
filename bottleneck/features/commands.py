"""The command that computes features again, with the options that they were computed with."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bottleneck.cache import Cache
from bottleneck.images import ImageSet, folder_of
from bottleneck.records import AnySource, FeatureSource
from bottleneck.sources import is_container, is_remote

__all__ = ["cache_option", "command_for", "extract_command", "remedy_for"]

_FLAGS = ("keep_aspect", "reduced_decode")
_NUMBERS = ("interpolation", "max_value", "max_pixels")
_CHECKED = 50


def cache_option(cache: Cache) -> list[str]:
    """Return the option that names a cache folder; empty for that of the working folder.

    Parameters
    ----------
    cache : Cache
        The cache.

    Returns
    -------
    list of str
    """
    return [] if cache.root == Path("cache") else ["--cache", str(cache.root)]


def extract_command(
    layers: Sequence[FeatureSource], images: ImageSet, finetuned: str | None = None
) -> list[str] | None:
    """Return the command that extracts layers of one base again, or None if it is unknown.

    It is that for further images in the same folder, or for a fine-tuned model.

    Parameters
    ----------
    layers : sequence of FeatureSource
        The layers.
    images : ImageSet
        Their image set.
    finetuned : str, optional
        The folder of a fine-tuned model whose features are to be extracted instead.

    Returns
    -------
    list of str or None
        The arguments from ``extract`` on. None if the images are in no folder of classes, or the
        layers have several poolings or were imported.
    """
    root, pools = _folder_of_classes(images), {each.stored_pool for each in layers} - {"none"}
    if root is None or len(pools) > 1 or layers[0].is_imported:
        return None
    return ["extract", "--data", str(root), *_options(layers, finetuned)]


def remedy_for(source: AnySource, images: ImageSet, cache: Cache) -> str:
    """Return the command that computes what the cache lacks of features, as text.

    Parameters
    ----------
    source : FeatureSource or JoinedSource
        The features.
    images : ImageSet
        Their image set.
    cache : Cache
        The cache.

    Returns
    -------
    str
        Without the folder of the images if they are in no folder of classes.
    """
    first = source.parts[0]
    if first.is_imported:
        return first.made_by
    layers = [part for part in source.parts if part.model == first.model]
    command = extract_command(layers, images) or ["extract", *_options(layers)]
    return shlex.join(["bottleneck", *command, *cache_option(cache)])


def command_for(model: str, images: ImageSet, cache: Cache) -> str:
    """Return the command that extracts features of another base, as text.

    Parameters
    ----------
    model : str
        The base.
    images : ImageSet
        The image set.
    cache : Cache
        The cache.

    Returns
    -------
    str
        Without the folder of the images if they are in no folder of classes.
    """
    root = _folder_of_classes(images)
    data = [] if root is None else ["--data", str(root)]
    where = [*data, "--set", images.name, "--model", model, *cache_option(cache)]
    return shlex.join(["bottleneck", "extract", *where])


def _options(layers: Sequence[FeatureSource], finetuned: str | None = None) -> list[str]:
    """Return the options of an extraction of layers of one base, without the folder of images."""
    first, pools = layers[0], {each.stored_pool for each in layers} - {"none"}
    names = dict.fromkeys(each.layer_name for each in layers)
    changes: Mapping[str, Any] = {**first.adjustments}
    size, squash = changes.get("image_size"), changes.get("squash")
    if finetuned:  # its preprocessing is its own
        size = squash = None
    weights = "random" if first.weights_random else first.weights
    given = (first.weights_random or Path(weights).is_file()) and not finetuned
    return [
        *("--set", first.image_set),
        *("--model", finetuned or first.model),
        *(["--weights", weights] if given else []),
        *(part for name in names for part in ("--layer", name)),
        *(part for pool in pools for part in ("--pool", pool)),
        *(["--image-size", "x".join(map(str, size))] if size else []),
        *([] if squash is None else ["--squash" if squash else "--crop"]),
        *(_option(key) for key in _FLAGS if changes.get(key)),
        *(part for key in _NUMBERS if key in changes for part in (_option(key), f"{changes[key]}")),
        # On a processor, auto computes in fp32 with a faster resize, which has a bank of its own.
        *([] if changes.get("exact_resize") is False else ["--precision", first.precision]),
        *("--dtype", first.dtype),
        *(["--views", f"{first.views}", "--augment", f"{first.policy}"] if first.views else []),
    ]


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _folder_of_classes(images: ImageSet) -> Path | None:
    """Return the folder that holds a folder for each class, if the images are in one."""
    root = folder_of(images)
    if root is None or not (root.is_dir() or is_container(root) or is_remote(root)):
        return None
    some = images.items[:: max(1, len(images.items) // _CHECKED)]
    inside = (item.label in Path(item.path).relative_to(root).parts[:-1] for item in some)
    return root if all(inside) else None

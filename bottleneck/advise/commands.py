"""The commands to type next, after a verdict."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bottleneck.advise.evidence import Depths, Evidence
from bottleneck.advise.verdict import (
    CEILING,
    EARLIER_LAYER,
    HEAD,
    MORE_DATA,
    PLATEAUED,
    POOLING,
    UNDECIDED,
    Verdict,
)
from bottleneck.cache import Cache
from bottleneck.images import ImageSet, folder_of
from bottleneck.records import FeatureSource

__all__ = ["next_commands"]

_FLAGS = ("keep_aspect", "reduced_decode")
_NUMBERS = ("interpolation", "max_value", "max_pixels")
_CHECKED = 50


def next_commands(
    verdict: Verdict, evidence: Evidence, clf: str, *, depths: Depths, cache: Cache
) -> list[list[str]]:
    """Return the commands that follow from a verdict, in their order.

    Parameters
    ----------
    verdict, evidence, clf : Verdict, Evidence, str
        The advice.
    depths : Depths
        The layers that it is about.
    cache : Cache
        The cache, with their image set.

    Returns
    -------
    list of list of str
        Arguments of each command, from ``bottleneck`` on. Those about more images extract the
        layers again from the folder of the images, if that is known.
    """
    kind, last = verdict.kind, depths.last
    images = ImageSet.read_csv(cache.set_file(last.image_set))
    splits = {item.split for item in images.items}
    where = [] if cache.root == Path("cache") else ["--cache", str(cache.root)]
    fit = _fit_head(last, clf)
    found = [fit]
    if kind in {EARLIER_LAYER, POOLING}:
        found = [
            _fit_head(layer, clf)
            for layer, each in zip(depths.layers, evidence.layers, strict=True)
            if each.difference and each.difference == verdict.gain
        ][:1]
    elif kind == HEAD:
        found = [
            _fit_head(last, each.clf) for each in evidence.heads if each.difference == verdict.gain
        ][:1]
    elif kind == MORE_DATA or (
        kind == UNDECIDED and any(each.state == "open" for each in verdict.options)
    ):
        found = [_extract(depths.layers, images) or fit]
    elif kind in {PLATEAUED, UNDECIDED}:
        start = verdict.layer or (evidence.tuning and evidence.tuning.layer)
        share = [] if "val" in splits else ["--val-share", "0.2"]
        found += [["finetune", "--unfreeze", start, *share]] if start else []
    elif held := [each for each in ("test", "val") if each in splits]:
        errors = ["--errors", "errors.csv"] if kind == CEILING else []
        found.append(["evaluate", "--split", held[0], *errors])
    return [["bottleneck", *command, *where] for command in found]


def _fit_head(layer: FeatureSource, clf: str) -> list[str]:
    chosen = ["--model", layer.model, "--set", layer.image_set, "--layer", layer.layer_name]
    return ["fit-head", *chosen, "--pool", layer.pool, "--clf", clf]


def _extract(layers: Sequence[FeatureSource], images: ImageSet) -> list[str] | None:
    """Return the command that extracts the layers of further images, or None if it is unknown."""
    first, root = layers[0], _folder_of_classes(images)
    pools = {each.stored_pool for each in layers} - {"none"}
    if root is None or len(pools) > 1:
        return None
    names = dict.fromkeys(each.layer_name for each in layers)
    changes: Mapping[str, Any] = {**first.adjustments}
    size, squash = changes.get("image_size"), changes.get("squash")
    weights = "random" if first.weights_random else first.weights
    return [
        *("extract", "--data", str(root), "--set", first.image_set, "--model", first.model),
        *(["--weights", weights] if first.weights_random or Path(weights).is_file() else []),
        *(part for name in names for part in ("--layer", name)),
        *(part for pool in pools for part in ("--pool", pool)),
        *(["--image-size", "x".join(map(str, size))] if size else []),
        *([] if squash is None else ["--squash" if squash else "--crop"]),
        *(_option(key) for key in _FLAGS if changes.get(key)),
        *(part for key in _NUMBERS if key in changes for part in (_option(key), f"{changes[key]}")),
        # On a processor, auto computes in fp32 with a faster resize, which has a bank of its own.
        *([] if changes.get("exact_resize") is False else ["--precision", first.precision]),
        *("--dtype", first.dtype),
    ]


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _folder_of_classes(images: ImageSet) -> Path | None:
    """Return the folder that holds a folder for each class, if the images are in one."""
    root = folder_of(images)
    if root is None or not root.is_dir():
        return None
    some = images.items[:: max(1, len(images.items) // _CHECKED)]
    inside = (item.label in Path(item.path).relative_to(root).parts[:-1] for item in some)
    return root if all(inside) else None

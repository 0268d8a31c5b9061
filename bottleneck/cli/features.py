"""The commands on features: extract, layers, models, augment-preview."""

import io
import sys
from dataclasses import replace
from itertools import chain
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from annotated_doc import Doc

from bottleneck.cli.command import add_command
from bottleneck.cli.notes import find_alike, note_image_set, note_random, note_rejected
from bottleneck.cli.options import AsJson, CacheFolder, NearDuplicates
from bottleneck.cli.output import loading, note, print_json, print_table, progress_shown
from bottleneck.errors import UsageError
from bottleneck.fields import Option
from bottleneck.settings import (
    AUGMENTATIONS,
    Augmentation,
    Count,
    ExtractSettings,
    ImageSettings,
    Pixels,
)

if TYPE_CHECKING:
    from bottleneck.bases.frozen import FrozenBase
    from bottleneck.cache import Cache
    from bottleneck.extract import Extraction, Forecast
    from bottleneck.images import ImageSet

__all__ = ["augment_preview", "extract", "layers", "models"]

_FLOAT16_BYTES = 2
_MANY_PARTS = 500
"""A program may often open no more than 1,024 files, and `features.h5` opens them all."""


@add_command("extract", "Features")
def extract(
    images: ImageSettings,
    settings: ExtractSettings,
    cache: CacheFolder = Path("cache"),
    near_duplicates: NearDuplicates = False,
    dry_run: Annotated[bool, Doc("Only tell what it would take, from a short trial.")] = False,
    as_json: AsJson = False,
) -> Any:
    """Compute the features that the cache lacks and store them.

    Exits with 1 where images had to be left out; all others are stored.
    """
    from bottleneck.bases import find_model
    from bottleneck.images import ImageSet

    if dry_run and near_duplicates:
        raise UsageError("`dry_run` looks at few images; leave `near_duplicates` out")
    found = ImageSet.open(images.data, name=images.image_set, seed=images.seed)
    with loading():
        find_model(settings.model)  # a name that is not known needs no PyTorch
        from bottleneck.bases.frozen import FrozenBase
        from bottleneck.cache import Cache
        from bottleneck.extract import extract_features
    base, store = FrozenBase(settings), Cache(cache)
    if dry_run:
        return _forecast(found, base, store, settings, as_json=as_json)
    try:
        with progress_shown(as_json=as_json) as progress:
            extraction = extract_features(found, base, store, settings, progress=progress)
    except SystemExit:
        _note_safe(found, base, store, settings)
        raise
    usable = replace(found, items=ImageSet.read_csv(store.set_file(found.name)).items)
    alike = find_alike(usable) if near_duplicates else {}
    note_image_set(usable)
    _print_extraction(extraction, cache, alike, as_json=as_json)
    _note_parts(extraction, store)
    note_random(extraction.weights_random)
    note_rejected(extraction.rejected)
    if extraction.rejected:
        raise typer.Exit(1)
    return extraction


@add_command("layers", "Features")
def layers(
    model: Annotated[str, Doc("The base; 'bottleneck models' lists them."), Option(argument=True)],
    image_size: Annotated[
        Pixels | None,
        Doc("Pixels that the base sees, as SIDE or HEIGHTxWIDTH; those of the weights by default."),
        Option(metavar="PIXELS"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List a base's layers with their aliases, shapes, sizes and costs.

    The sizes are floats per image, and megabytes per 1,000 images at float16. The cost is the share
    of all multiply-adds that a base cut there needs.
    """
    from bottleneck.bases import find_model

    found = find_model(model)
    with loading():
        from bottleneck.bases.network import Network
    network = Network(found)
    height, width = image_size or found.transform.crop
    sized = network.sized((height, width), needed=network.in_order(["logits"]))
    total = max(layer.multiply_adds for layer in sized.values())
    rows = [
        {
            "layer": layer.name,
            "aliases": layer.aliases,
            "shape": layer.shape,
            "floats": prod(layer.shape),
            "MB/1000": _FLOAT16_BYTES * prod(layer.shape) / 1e3,
            "cost %": 100 * layer.multiply_adds / total,
        }
        for layer in sized.values()
    ]
    title = f"{model} at {height} x {width} pixels, {total / 1e9:.3f} G multiply-adds"
    print_table(rows, title=title, as_json=as_json)
    if not as_json:
        note("floats per image, megabytes per 1,000 images at float16, share of all multiply-adds")
        note(f"default layer: {found.default_layer}")


@add_command("models", "Features")
def models(
    markdown: Annotated[bool, Doc("Print a Markdown table.")] = False, as_json: AsJson = False
) -> None:
    """List the bases by name.

    The top-1 accuracy on ImageNet, in percent, is what the source of the default weights publishes.
    """
    from bottleneck.bases import list_models, timm_release

    found, errors = list_models()
    for error in errors:
        note(f"note: {error}")
    rows = [
        {
            "model": row.name,
            "library": row.library,
            "parameters": row.parameters,
            "input": row.image_size,
            "weights": row.weights,
            "default layer": row.default_layer,
            "top-1": row.top1,
        }
        for row in found
    ]
    print_table(rows, as_json=as_json, markdown=markdown)
    if not as_json:
        version, names = timm_release()
        note(f"and {len(names)} models of timm {version} as timm:NAME, such as timm:resnet50d")


@add_command("augment-preview", "Features")
def augment_preview(
    augment: Annotated[
        Augmentation,
        Doc("flip, standard, crop, color, noise, elastic, trivial, or a YAML file."),
        Option(words=AUGMENTATIONS),
    ],
    images_from: ImageSettings,
    views: Annotated[Count, Doc("Views of each image.")] = 8,
    images: Annotated[Count, Doc("How many images.")] = 6,
    output: Annotated[Path, Doc("The picture; its ending is .png.")] = Path("augment-preview.png"),
    as_json: AsJson = False,
) -> None:
    """Draw augmented views of a few training images, beside the plain ones."""
    if output.suffix.lower() != ".png":
        raise UsageError(f"`output` must end in .png, got {str(output)!r}")
    from bottleneck.images import ImageSet

    found = ImageSet.open(images_from.data, name=images_from.image_set, seed=images_from.seed)
    with loading():
        from bottleneck.augment import find_policy
        from bottleneck.extract import draw_views
        from bottleneck.files import atomic_write

    policy = find_policy(augment)
    content = io.BytesIO()
    draw_views(found, augment, views=views, count=images).save(content, "PNG")
    atomic_write(output, content.getvalue())
    if as_json:
        drawn = {"picture": str(output), "policy": policy.name, "views": views}
        print_json(drawn | policy.as_dict())
        return
    print(f"{views} views by {policy.name!r} drawn to {output}")


def _forecast(
    images: "ImageSet",
    base: "FrozenBase",
    cache: "Cache",
    settings: ExtractSettings,
    *,
    as_json: bool,
) -> "Forecast":
    from bottleneck.extract import forecast_extraction

    quiet = not (as_json or sys.stderr.isatty())
    with progress_shown(quiet=quiet, as_json=as_json) as progress:
        forecast = forecast_extraction(images, base, cache, settings, progress=progress)
    note_image_set(images)
    if as_json:
        print_json(forecast.as_dict())
    else:
        _print_forecast(forecast)
    note_rejected(forecast.rejected)
    return forecast


def _print_forecast(forecast: "Forecast") -> None:
    memory = forecast.peak_memory
    rows = {
        "images found": str(forecast.images),
        "images missing from the cache": str(forecast.missing),
        "augmented views missing": str(forecast.missing_views),
        "seconds": f"{forecast.seconds:.1f}",
        "megabytes on disk": f"{forecast.bytes_on_disk / 1e6:.1f}",
        "megabytes of memory at most": "unknown" if memory is None else f"{memory / 1e6:.0f}",
    }
    width = max(map(len, rows))
    for name, value in rows.items():
        print(f"{name.ljust(width)}  {value}")
    note(f"from a trial of {forecast.trial} images; nothing of it is kept")


def _note_safe(
    images: "ImageSet", base: "FrozenBase", cache: "Cache", settings: ExtractSettings
) -> None:
    from bottleneck.extract import count_cached

    safe, distinct = count_cached(images, base, cache, settings)
    note(
        f"stopped: {safe} of {distinct} different images are safe in {cache.root}; the same "
        f"command goes on from there"
    )


def _note_parts(extraction: "Extraction", cache: "Cache") -> None:
    used = [(found.bank, found.view_bank) for found in extraction.layers]
    for name in dict.fromkeys(filter(None, chain.from_iterable(used))):
        parts = len(cache.named(name).part_files())
        if parts > _MANY_PARTS:
            note(f"note: {name} has {parts} parts; 'bottleneck cache compact' puts them together")


def _print_extraction(
    extraction: "Extraction", cache: Path, more: dict[str, Any], *, as_json: bool
) -> None:
    if as_json:
        print_json(extraction.as_dict() | more)
        return
    exact = extraction.adjustments.get("exact_resize", extraction.precision == "fp32")
    print(
        f"{extraction.images} images of {extraction.image_set!r} by {extraction.model} "
        f"({extraction.weights}, {extraction.precision}{', exact pixels' if exact else ''}): "
        f"{extraction.computed} computed, "
        f"{extraction.cached} found in the cache, {extraction.seconds:.1f} s"
    )
    if extraction.views:
        print(
            f"{extraction.views} views of each training image by {extraction.policy!r}: "
            f"{extraction.views_computed} computed"
        )
    print_table(
        [
            {
                "layer": found.alias or found.layer,
                "pool": found.pool,
                "shape": found.shape,
                "bank": cache / found.bank,
                **({"views": cache / found.view_bank} if found.view_bank else {}),
            }
            for found in extraction.layers
        ]
    )

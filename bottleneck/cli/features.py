"""The commands on features: extract, layers, models, augment-preview."""

import sys
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from annotated_doc import Doc

import bottleneck
from bottleneck.cli import notes, options
from bottleneck.cli.command import add_command
from bottleneck.cli.output import loading, print_list, print_table, progress_shown, show, wanted
from bottleneck.cli.streams import note
from bottleneck.cli.summary import note_lost, open_images
from bottleneck.errors import counted
from bottleneck.fields import ARGUMENT, Option
from bottleneck.records import ExtractedShard
from bottleneck.settings import BasesSettings, ImageSettings
from bottleneck.settings.values import Augmentation, BaseName, Count, Pixels

if TYPE_CHECKING:
    from bottleneck.extract import Extraction, Forecast

__all__ = ["augment_preview", "extract", "layers", "models"]

_FLOAT16_BYTES = 2
_FEWEST_DRAWN, _MOST_DRAWN = 6, 24
_OF_MODELS = ("model", "library", "parameters", "input", "weights", "default_layer", "top_1")
_DARK = 4096
"""Images of 12 bits are often stored in 16."""
_BITS = 8
_MANY_PARTS = 500
"""Programs can often open no more than 1,024 files, and `features.h5` opens all parts."""


@add_command("extract", "Features", "as_json", "wide")
def extract(
    images: ImageSettings,
    settings: BasesSettings,
    cache: options.CacheFolder = Path("cache"),
    near_duplicates: Annotated[options.NearDuplicates, Option(unless=("dry_run",))] = False,
    dry_run: Annotated[bool, Doc("Only estimate time and space, from a short trial.")] = False,
) -> Any:
    """Compute missing features of images and store them in the cache.

    With several bases, each image is decoded once for all. Exits with 1 if images had to be left
    out; all others are stored.
    """
    from bottleneck.bases import find_model
    from bottleneck.cache import Shard

    Shard.of(settings.shard)  # what the environment does not tell needs no images
    found = open_images(images, cache)
    with loading():
        for model in settings.models:
            find_model(model)  # an unknown name needs no PyTorch
        from bottleneck.extract import extract_features
    bases = [bottleneck.FrozenBase(each) for each in settings.each()]
    store = bottleneck.Cache(cache)
    if dry_run:
        return _forecast(found, bases, store, settings)
    _note_replaced_set(found, store)
    try:
        with progress_shown(as_json=True) as progress:
            done = extract_features(found, bases, store, settings, progress=progress)
    except SystemExit:
        _note_stopped(found, bases, store, settings)
        raise
    _show_extractions(found, done, store, near_duplicates=near_duplicates)
    return done


@add_command("layers", "Features", "as_json", "wide")
def layers(
    model: Annotated[BaseName, ARGUMENT],
    image_size: Annotated[
        Pixels | None,
        Doc("Input size of the base: SIDE or HEIGHTxWIDTH; by default that of the weights."),
    ] = None,
) -> None:
    """List a base's layers with their aliases, shapes, sizes and costs.

    The size is in floats per image, and in megabytes per 1,000 images at float16. The cost of a
    layer is the multiply-adds up to it, as a share of those of the whole network.
    """
    from bottleneck.bases import find_model

    found = find_model(model)
    with loading():
        from bottleneck.bases.network import Network
    network = Network(found, image_size=image_size)
    height, width = image_size or found.transform.crop
    sized = network.sized((height, width), needed=network.named(["logits"]))
    total = max(layer.multiply_adds for layer in sized.values())
    rows = [
        {
            "layer": layer.name,
            "aliases": (*layer.aliases, *network.more_names.get(layer.name, ())),
            "shape": layer.shape,
            "floats": prod(layer.shape),
            "megabytes_per_1000": _FLOAT16_BYTES * prod(layer.shape) / 1e3,
            "cost_percent": 100 * layer.multiply_adds / total,
        }
        for layer in sized.values()
    ]
    title = f"{model} at {height} x {width} pixels, {total / 1e9:.3f} G multiply-adds"
    print_table(rows, title, spare=("megabytes_per_1000", "floats"))
    if not wanted("json"):
        note("floats per image, megabytes per 1,000 images at float16, share of all multiply-adds")
        note(f"default layer: {found.default_layer}")
        note(f"preprocessing: {found.transform.adjusted(image_size=(height, width)).summary}")
    if network.untraced:
        _note_untraced(model, network.untraced)


@add_command("models", "Features", "markdown", "as_json", "wide")
def models() -> None:
    """List the bases by name.

    Top-1 is the ImageNet accuracy in percent that the source of the default weights publishes.
    """
    from bottleneck.bases import SOURCES, list_models, timm_release

    found, errors = list_models()
    for error in errors:
        note(f"note: {error}")
    rows = [dict(zip(_OF_MODELS, vars(row).values(), strict=True)) for row in found]
    print_table(rows, spare=("library",))
    version, names = timm_release()
    if not wanted("json"):
        note(f"and {len(names)} models of timm {version} as timm:NAME, such as timm:resnet50d")
        for each in SOURCES[1:]:
            note(f"and {each.form}: {each.says}")


@add_command("augment-preview", "Features")
def augment_preview(
    augment: Annotated[Augmentation, Doc("Augmentation policy, or a YAML file of one.")],
    images_from: ImageSettings,
    views: Annotated[Count, Doc("Number of views of each image.")] = 8,
    images: Annotated[
        Count | None, Doc("Number of images; by default 6, or one of each class, at most 24.")
    ] = None,
    output: Annotated[options.PngFile, Doc("Picture to write, ending in .png.")] = Path(
        "augment-preview.png"
    ),
) -> None:
    """Draw augmented views of some training images, next to the originals."""
    found = bottleneck.ImageSet.open(images_from.data, images_from)
    with loading():
        from bottleneck.augment import find_policy
        from bottleneck.extract import draw_views
        from bottleneck.files import output_file

    policy = find_policy(augment)
    count = images or min(max(_FEWEST_DRAWN, len(found.classes)), _MOST_DRAWN)
    picture = draw_views(found, augment, views=views, count=count)
    with output_file(output) as file:
        picture.save(file, "PNG")
    drawn = {"picture": str(output), "policy": policy.name, "views": views} | policy.as_dict()
    show(drawn, lambda: print(f"{counted(views, 'view')} by {policy.name!r} drawn to {output}"))


def _note_stopped(
    images: "bottleneck.ImageSet",
    bases: "list[bottleneck.FrozenBase]",
    cache: "bottleneck.Cache",
    settings: BasesSettings,
) -> None:
    """Note how many images an extraction that was stopped has stored."""
    from bottleneck.extract import count_cached

    safe, distinct = count_cached(images, bases, cache, settings)
    different = counted(distinct, "different image is", "different images are")
    note(
        f"stopped: {safe} of {different} stored in {cache.root}; run the same command again to "
        f"continue"
    )


def _note_untraced(model: str, reason: str) -> None:
    note(
        f"note: {model} runs untraced ({reason}): its layers are what its modules return, "
        f"operations are not fused, and fine-tuning cannot use --from-cache"
    )


def _forecast(
    images: "bottleneck.ImageSet",
    bases: "list[bottleneck.FrozenBase]",
    cache: "bottleneck.Cache",
    settings: BasesSettings,
) -> "Forecast":
    """Try an extraction, and print what it would take."""
    from bottleneck.extract import forecast_extraction

    quiet = not (wanted("json") or sys.stderr.isatty())  # a trial is short
    with progress_shown(quiet=quiet, as_json=True) as progress:
        forecast = forecast_extraction(images, bases, cache, settings, progress=progress)
    if settings.engine == "ray":
        note("note: estimated for one process on this computer, not for workers on Ray")
    _print_forecast(images, forecast)
    return forecast


def _print_forecast(images: "bottleneck.ImageSet", found: "Forecast") -> None:
    """Print what an extraction would take; exit with 1 if images would have to be left out."""
    from bottleneck.images import summarize

    memory, shards = found.peak_memory, found.missing_of_shards
    facts = {
        "images found": str(found.images),
        "images missing from the cache": str(found.missing),
        **({"of these, by shard": notes.by_shard(found.missing_of_shards)} if shards else {}),
        "augmented views missing": str(found.missing_views),
        "seconds": f"{found.seconds:.1f}",
        "megabytes on disk": f"{found.bytes_on_disk / 1e6:.1f}",
        "megabytes of memory at most": f"{memory / 1e6:.0f}" if memory else "unknown",
    }
    content = found.as_dict() | {"summary": summarize(images).as_dict()}
    show(content, lambda: print_list(facts))
    note(f"estimated from a trial of {counted(found.trial, 'image')}, which stores nothing")
    notes.note_rejected(found.rejected)
    if found.rejected:
        sys.exit(1)


def _show_extractions(
    found: "bottleneck.ImageSet",
    done: "list[Extraction]",
    store: "bottleneck.Cache",
    *,
    near_duplicates: bool,
) -> None:
    """Print the results of all bases, and what was lost by images that could not be used."""
    from bottleneck.images import summarize

    rejected = done[0].rejected  # the bases share one image set
    usable = replace(found.without(rejected), rejected=tuple(rejected))
    alike = notes.find_alike(usable) if near_duplicates else {}
    added = alike | {"summary": summarize(usable).as_dict()}
    content = [each.as_dict() | added for each in done]

    def text() -> None:
        for each in done:
            _print_extraction(each, store.root)

    show(content if len(content) > 1 else content[0], text)
    note_lost(found, usable)
    _note_extractions(done, store)


def _print_extraction(done: "Extraction", cache: Path) -> None:
    exact = done.adjustments.get("exact_resize", done.precision == "fp32")
    copies = counted(done.copies, "copy of another, ", "copies of others, ") if done.copies else ""
    part = f", shard {done.shard}" if isinstance(done, ExtractedShard) else ""
    print(
        f"{counted(done.images, 'image')} of {done.image_set!r}{part} by {done.model} "
        f"({done.weights}, {done.precision}{', exact pixels' if exact else ''}): "
        f"{done.computed} computed, {done.cached} found in the cache, {copies}{done.seconds:.1f} s"
    )
    if done.views:
        print(
            f"{counted(done.views, 'view')} of each training image by {done.policy!r}: "
            f"{done.views_computed} computed"
        )
    print_table(
        [
            {
                "layer": found.layer_name,
                "pool": found.pool,
                "shape": found.shape,
                "bank": str(cache / found.bank),
                **({"views": str(cache / found.view_bank)} if found.view_bank else {}),
            }
            for found in done.layers
        ]
    )


def _note_extractions(done: "list[Extraction]", cache: "bottleneck.Cache") -> None:
    """Print notes on extractions; exit with 1 if images had to be left out."""
    layers = [layer for each in done for layer in each.layers]
    used = [name for layer in layers for name in (layer.bank, layer.view_bank) if name]
    for name in dict.fromkeys(used):
        parts = len(cache.named(name).parts())
        if parts > _MANY_PARTS:
            note(f"note: {name} has {parts} parts; 'bottleneck cache compact' merges them")
    notes.note_random(any(each.weights_random for each in done))
    notes.note_shard(done[0])
    _note_decoded(done)
    notes.note_rejected(done[0].rejected)
    if done[0].rejected:
        sys.exit(1)


def _note_replaced_set(images: "bottleneck.ImageSet", cache: "bottleneck.Cache") -> None:
    """Warn that an image set is about to replace another one, or that images are gone."""
    from bottleneck.images import replacement_of

    # Without images, nothing is stored.
    found = replacement_of(cache.set_file(images.name), images) if images.items else None
    if found and found.is_other:
        old, new = found.folders
        places = f" of {old!r} by that of {new!r}" if old != new else ""
        note(
            f"warning: this replaces image set {images.name!r}{places}: {found.gone} of its "
            f"{counted(found.before, 'image is', 'images are')} not in the new one; give --set "
            f"NAME to keep both"
        )
    elif found and found.gone:
        note(
            f"note: {found.gone} of {counted(found.before, 'image')} that {images.name!r} had at "
            f"its last extraction are gone"
        )


def _note_decoded(done: "list[Extraction]") -> None:
    """Note what users should know of the images that were decoded."""
    if pages := list(dict.fromkeys(path for each in done for path in each.several_pages)):
        note(
            f"note: {counted(len(pages), 'file has', 'files have')} several pages or frames, of "
            f"which only the first is used (first file: {pages[0]})"
        )
    deep = max(done, key=lambda each: each.deep_images)
    if deep.deep_images and deep.deep_maximum < _DARK:
        white = 2 ** max(deep.deep_maximum.bit_length(), _BITS) - 1
        note(
            f"note: {counted(deep.deep_images, 'image')} of 16 bits below "
            f"{deep.deep_maximum + 1:,} of 65,535, with no range stated; if {white} is white, give "
            f"--max-value {white}"
        )

"""The command that computes features."""

import sys
from dataclasses import asdict, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bottleneck.cli.app import app
from bottleneck.cli.notes import (
    note_image_set,
    note_near_duplicates,
    note_random,
    note_rejected,
)
from bottleneck.cli.options import (
    AsJson,
    Augment,
    BatchSize,
    CacheFolder,
    Compress,
    Data,
    Device,
    ImageSize,
    Interpolation,
    KeepAspect,
    Model,
    NearDuplicates,
    Precision,
    ReducedDecode,
    Seed,
    SetName,
    Squash,
    Weights,
    batch_size_of,
    image_size_of,
)
from bottleneck.cli.output import note, print_json, print_table, progress_shown
from bottleneck.errors import UsageError

if TYPE_CHECKING:
    from bottleneck.extract import Extraction, Forecast

__all__ = ["extract"]

_MANY_PARTS = 500
"""A program may often open no more than 1,024 files, and `features.h5` opens them all."""


@app.command()
def extract(
    model: Model,
    layer: Annotated[
        list[str] | None,
        typer.Option(
            "--layer",
            help="A layer by any of its names, a pattern such as 'block*_pool', or all-blocks; may "
            "repeat. The model's default layer if not given.",
        ),
    ] = None,
    data: Data = Path("data"),
    weights: Weights = "default",
    image_size: ImageSize = None,
    interpolation: Interpolation = None,
    squash: Squash = None,
    keep_aspect: KeepAspect = False,
    reduced_decode: ReducedDecode = False,
    pool: Annotated[
        str,
        typer.Option(
            "--pool",
            help="How maps and tokens are pooled before they are stored: none, avg, max, gem, spp, "
            "or cls for class tokens. fit-head can pool what is stored unpooled.",
        ),
    ] = "none",
    views: Annotated[
        int,
        typer.Option(
            "--views", help="Augmented views of each training image, beside the plain one."
        ),
    ] = 0,
    augment: Augment = None,
    cache: CacheFolder = Path("cache"),
    image_set: SetName = None,
    dtype: Annotated[
        str, typer.Option("--dtype", help="How features are stored: float16 or float32.")
    ] = "float16",
    compress: Compress = "none",
    precision: Precision = "auto",
    device: Device = "auto",
    batch_size: BatchSize = "auto",
    near_duplicates: NearDuplicates = False,
    seed: Seed = 0,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Only tell what it would take, from a short trial."),
    ] = False,
    as_json: AsJson = False,
) -> Any:
    """Compute the features that the cache lacks and store them.

    Exits with 1 where images had to be left out; all others are stored.
    """
    from bottleneck.augment import find_policy
    from bottleneck.bases.frozen import FrozenBase
    from bottleneck.cache import Cache
    from bottleneck.extract import count_cached, extract_features, forecast_extraction
    from bottleneck.images import ImageSet, find_near_duplicates

    of_views: dict[str, Any] = {
        "views": views,
        "policy": None if augment is None else find_policy(augment),
    }
    settings: dict[str, Any] = {
        **of_views,
        "dtype": dtype,
        "compress": compress,
        "batch_size": batch_size_of(batch_size),
    }
    images = ImageSet.open(data, name=image_set, seed=seed)
    base = FrozenBase(
        model,
        layer or (),
        weights=weights,
        image_size=image_size_of(image_size),
        interpolation=interpolation,
        squash=squash,
        keep_aspect=keep_aspect,
        reduced_decode=reduced_decode,
        pool=pool,
        precision=precision,
        device=device,
    )
    store = Cache(cache)
    if dry_run:
        if near_duplicates:
            raise UsageError("--dry-run looks at few images; leave --near-duplicates out")
        with progress_shown(
            quiet=not (as_json or sys.stderr.isatty()), as_json=as_json
        ) as progress:
            forecast = forecast_extraction(images, base, store, **settings, progress=progress)
        note_image_set(images)
        if as_json:
            print_json(forecast.as_dict())
        else:
            _print_forecast(forecast)
        note_rejected(forecast.rejected)
        return forecast
    try:
        with progress_shown(as_json=as_json) as progress:
            extraction = extract_features(images, base, store, **settings, progress=progress)
            usable = replace(images, items=ImageSet.read_csv(store.set_file(images.name)).items)
            alike = find_near_duplicates(usable, progress=progress) if near_duplicates else None
    except SystemExit:
        safe, distinct = count_cached(images, base, store, dtype, **of_views)
        note(
            f"stopped: {safe} of {distinct} different images are safe in {cache}; the same command "
            f"goes on from there"
        )
        raise
    note_image_set(usable)
    if as_json:
        found = {} if alike is None else {"near_duplicates": asdict(alike)}
        print_json(extraction.as_dict() | found)
    else:
        _print_extraction(extraction, cache)
    used = [(found.bank, found.view_bank) for found in extraction.layers]
    for name in dict.fromkeys(filter(None, chain.from_iterable(used))):
        parts = len(store.named(name).parts())
        if parts > _MANY_PARTS:
            note(f"note: {name} has {parts} parts; 'bottleneck cache compact' puts them together")
    note_random(extraction.weights_random)
    if alike is not None:
        note_near_duplicates(alike)
    note_rejected(extraction.rejected)
    if extraction.rejected:
        raise typer.Exit(1)
    return extraction


def _print_extraction(extraction: "Extraction", cache: Path) -> None:
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

"""The commands that do the work: extract, fit-head, evaluate, predict."""

import csv
import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bottleneck.cli.app import app
from bottleneck.cli.options import (
    AsJson,
    BatchSize,
    CacheFolder,
    Data,
    HeadName,
    HeadsFolder,
    ImageSize,
    Interpolation,
    Model,
    NewHeadName,
    Seed,
    SetName,
    Squash,
    Weights,
    image_size_of,
)
from bottleneck.cli.output import note, print_json, print_table, progress_shown

if TYPE_CHECKING:
    from bottleneck.extract import Extraction, Forecast
    from bottleneck.images import ImageSet, RejectedImage

__all__ = ["evaluate", "extract", "fit_head", "predict"]


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
    pool: Annotated[
        str,
        typer.Option(
            "--pool",
            help="How maps and tokens are pooled before they are stored: none, avg, max, gem, spp, "
            "or cls for class tokens. fit-head can pool what is stored unpooled.",
        ),
    ] = "none",
    cache: CacheFolder = Path("cache"),
    image_set: SetName = None,
    dtype: Annotated[
        str, typer.Option("--dtype", help="How features are stored: float16 or float32.")
    ] = "float16",
    batch_size: BatchSize = 16,
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
    from bottleneck.bases import FrozenBase
    from bottleneck.cache import Cache
    from bottleneck.extract import extract_features, forecast_extraction
    from bottleneck.images import ImageSet

    images = ImageSet.open(data, name=image_set, seed=seed)
    base = FrozenBase(
        model,
        layer or (),
        weights=weights,
        image_size=image_size_of(image_size),
        interpolation=interpolation,
        squash=squash,
        pool=pool,
    )
    if dry_run:
        with progress_shown(quiet=not sys.stderr.isatty()) as progress:
            forecast = forecast_extraction(
                images, base, Cache(cache), dtype=dtype, batch_size=batch_size, progress=progress
            )
        _note_image_set(images)
        if as_json:
            print_json(forecast.as_dict())
        else:
            _print_forecast(forecast)
        _note_rejected(forecast.rejected)
        return forecast
    with progress_shown() as progress:
        extraction = extract_features(
            images, base, Cache(cache), dtype=dtype, batch_size=batch_size, progress=progress
        )
    _note_image_set(images)
    if as_json:
        print_json(extraction.as_dict())
    else:
        _print_extraction(extraction, cache)
    _note_random(extraction.weights_random)
    _note_rejected(extraction.rejected)
    if extraction.rejected:
        raise typer.Exit(1)
    return extraction


@app.command("fit-head")
def fit_head(
    clf: Annotated[str, typer.Option("--clf", help="softmax, logreg or svm.")] = "softmax",
    C: Annotated[
        float | None,
        typer.Option(
            "--C",
            help="Inverse strength of the L2 penalty; by default chosen on "
            "held-out training images, or on the val images where there are any.",
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="Choose among extractions by model.")
    ] = None,
    layer: Annotated[
        str | None, typer.Option("--layer", help="Choose among extractions by layer or alias.")
    ] = None,
    image_set: Annotated[
        str | None, typer.Option("--set", help="Choose among extractions by image set.")
    ] = None,
    pool: Annotated[
        str | None,
        typer.Option(
            "--pool",
            help="Pool stored maps and tokens: avg, max, gem, spp, or cls for class tokens; or "
            "choose among extractions by pooling.",
        ),
    ] = None,
    name: NewHeadName = None,
    cache: CacheFolder = Path("cache"),
    heads: HeadsFolder = Path("heads"),
    seed: Seed = 0,
    as_json: AsJson = False,
) -> Any:
    """Fit a classifier on the features of the cache's last extraction."""
    from bottleneck.cache import Cache
    from bottleneck.features import load_features, select_features
    from bottleneck.heads import fit_head as fit

    store = Cache(cache)
    selection = select_features(store, model=model, layer=layer, image_set=image_set, pool=pool)
    features = load_features(store, selection)
    train, validation = features.split("train"), features.split("val")
    head = fit(
        train.X,
        train.labels,
        clf,
        C=C,
        groups=train.digests,
        validation=(validation.X, validation.labels) if len(validation) else None,
        source=features.provenance,
        seed=seed,
    )
    folder = heads / (name or f"{selection.slug}-{clf}")
    replaced = folder.exists()
    head.save(folder)
    _note_image_set(features.images)
    _note_random(selection.weights_random)
    if as_json:
        print_json({"head": folder.name, **head.as_dict()})
        return head
    print(
        f"{clf} on {len(train)} images of {selection.image_set!r}, {train.X.shape[1]} features of "
        f"{selection}"
    )
    chosen = f"chosen on {head.scores['held_out']}, " if C is None else ""
    if "accuracy" in head.scores:
        print(f"C = {head.C:g}, {chosen}held-out accuracy {head.scores['accuracy']:.4f}")
    if not head.scores["converged"]:
        note("note: the solver stopped before it converged; a smaller --C converges sooner")
    print(f"saved as {folder}")
    if replaced:
        note("note: it replaces the head that had that name; --name gives another")
    return head


@app.command()
def evaluate(
    head: HeadName = None,
    split: Annotated[
        str, typer.Option("--split", help="test; val and train give scores too good to quote.")
    ] = "test",
    picture: Annotated[
        Path | None, typer.Option("--picture", help="Draw the confusion matrix to this file.")
    ] = None,
    cache: CacheFolder = Path("cache"),
    heads: HeadsFolder = Path("heads"),
    as_json: AsJson = False,
) -> Any:
    """Evaluate a head on the untouched test images."""
    from bottleneck.cache import Cache
    from bottleneck.evaluate import evaluate_head
    from bottleneck.features import features_of
    from bottleneck.heads import find_head
    from bottleneck.report import draw_confusion_matrix

    name, fitted = find_head(heads, head)
    features = features_of(fitted.source, Cache(cache))
    evaluation = evaluate_head(fitted, features, split)
    evaluation.save(heads / name / f"evaluation-{split}.json")
    if picture:
        draw_confusion_matrix(evaluation, name, picture)
        note(f"confusion matrix drawn to {picture}")
    _note_image_set(features.images)
    _note_random(fitted.source["weights_random"])
    if as_json:
        print_json({"head": name, **evaluation.as_dict()})
        return evaluation
    low, high = evaluation.accuracy_interval
    print(f"{name} on {evaluation.images} {split} images of {fitted.source['image_set']!r}")
    print(f"accuracy           {evaluation.accuracy:.4f} (95% interval {low:.4f} to {high:.4f})")
    print(f"balanced accuracy  {evaluation.balanced_accuracy:.4f}")
    print(f"log loss           {evaluation.log_loss:.4f}")
    print_table([vars(found) for found in evaluation.classes])
    labels = [found.label for found in evaluation.classes]
    print_table(
        [
            {"true \\ predicted": label, **dict(zip(labels, row, strict=True))}
            for label, row in zip(labels, evaluation.confusion, strict=True)
        ],
    )
    return evaluation


@app.command()
def predict(
    images: Annotated[list[Path], typer.Argument(help="Image files, or folders of them.")],
    head: HeadName = None,
    weights: Annotated[
        str | None, typer.Option("--weights", help="The base's weights, where they have moved.")
    ] = None,
    heads: HeadsFolder = Path("heads"),
    batch_size: BatchSize = 16,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON lines, not CSV.")] = False,
) -> None:
    """Print the class and its probability for each image.

    Exits with 1 where images had to be left out; all others are predicted.
    """
    from bottleneck.heads import find_head
    from bottleneck.images import ImageSet, RejectedImage
    from bottleneck.predict import load_base, predict_images

    _, fitted = find_head(heads, head)
    found = ImageSet.from_paths(images)
    base = load_base(fitted, weights=weights)
    _note_random(base.weights_random)
    _note_image_set(found)
    table = csv.writer(sys.stdout, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    if not as_json:
        table.writerow(["path", "class", *(f"p({label})" for label in fitted.classes)])
    rejected = []
    with progress_shown(quiet=not sys.stderr.isatty() or sys.stdout.isatty()) as progress:
        for result in predict_images(fitted, base, found, batch_size=batch_size, progress=progress):
            if isinstance(result, RejectedImage):
                rejected.append(result)
                if as_json:
                    print(json.dumps({"path": result.path, "error": result.reason}))
            elif as_json:
                line = {"path": result.path, "class": result.label}
                print(json.dumps(line | {"probabilities": result.probabilities}))
            else:
                shares = (round(share, 6) for share in result.probabilities.values())
                table.writerow([result.path, result.label, *shares])
    _note_rejected(rejected)
    if rejected:
        raise typer.Exit(1)


def _print_extraction(extraction: "Extraction", cache: Path) -> None:
    print(
        f"{extraction.images} images of {extraction.image_set!r} by {extraction.model} "
        f"({extraction.weights}): {extraction.computed} computed, {extraction.cached} found in the "
        f"cache, {extraction.seconds:.1f} s"
    )
    print_table(
        [
            {
                "layer": found.alias or found.layer,
                "pool": found.pool,
                "shape": found.shape,
                "bank": cache / found.bank,
            }
            for found in extraction.layers
        ]
    )


def _print_forecast(forecast: "Forecast") -> None:
    memory = forecast.peak_memory
    rows = {
        "images found": str(forecast.images),
        "images missing from the cache": str(forecast.missing),
        "seconds": f"{forecast.seconds:.1f}",
        "megabytes on disk": f"{forecast.bytes_on_disk / 1e6:.1f}",
        "megabytes of memory at most": "unknown" if memory is None else f"{memory / 1e6:.0f}",
    }
    width = max(map(len, rows))
    for name, value in rows.items():
        print(f"{name.ljust(width)}  {value}")
    note(f"from a trial of {forecast.trial} images; nothing of it is kept")


def _note_random(random: bool) -> None:
    if random:
        note("note: the weights are random; the features serve to try the plumbing only")


def _note_rejected(rejected: "Sequence[RejectedImage]") -> None:
    if rejected:
        note(f"{len(rejected)} images could not be used:")
    for image in rejected:
        note(f"  {image.path}: {image.reason}")


def _note_image_set(images: "ImageSet") -> None:
    if images.ignored:
        endings = Counter(Path(path).suffix or "no ending" for path in images.ignored)
        listed = ", ".join(f"{count} {ending}" for ending, count in endings.most_common(5))
        note(f"note: {len(images.ignored)} files are no images, or of no class, left out: {listed}")
    if images.leaks:
        note(f"warning: leak: {_example(images, images.leaks)} stand in more than one split")
    if images.conflicts:
        note(f"warning: {_example(images, images.conflicts)} carry more than one label")


def _example(images: "ImageSet", digests: Sequence[str]) -> str:
    paths = [item.path for item in images.items if item.digest == digests[0]]
    return f"{len(digests)} identical images (first: {' = '.join(paths)})"

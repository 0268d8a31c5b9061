"""The commands that work on features: fit-head, evaluate, predict."""

import csv
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

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
    BatchSize,
    ByLayer,
    ByModel,
    BySet,
    CacheFolder,
    Device,
    HeadName,
    HeadsFolder,
    NearDuplicates,
    NewHeadName,
    Seed,
    batch_size_of,
)
from bottleneck.cli.output import note, print_json, print_table, progress_shown

__all__ = ["evaluate", "fit_head", "predict"]


@app.command("fit-head")
def fit_head(
    clf: Annotated[
        str, typer.Option("--clf", help="softmax, logreg, svm, ridge, lda or centroid.")
    ] = "softmax",
    C: Annotated[
        float | None,
        typer.Option(
            "--C",
            help="Inverse strength of the L2 penalty; by default chosen on "
            "held-out training images, or on the val images where there are any.",
        ),
    ] = None,
    model: ByModel = None,
    layer: ByLayer = None,
    image_set: BySet = None,
    pool: Annotated[
        str | None,
        typer.Option(
            "--pool",
            help="Pool stored maps and tokens: avg, max, gem, spp, or cls for class tokens; or "
            "choose among extractions by pooling.",
        ),
    ] = None,
    balanced: Annotated[
        bool,
        typer.Option("--balanced", help="Let each class count the same, however many images."),
    ] = False,
    standardize: Annotated[
        bool,
        typer.Option(
            "--standardize/--no-standardize",
            help="Divide each feature by its deviation over the images fitted on.",
        ),
    ] = True,
    name: NewHeadName = None,
    cache: CacheFolder = Path("cache"),
    heads: HeadsFolder = Path("heads"),
    near_duplicates: NearDuplicates = False,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> Any:
    """Fit a classifier on the features of the cache's last extraction."""
    from bottleneck.cache import Cache
    from bottleneck.features import load_features, select_features
    from bottleneck.heads import fit_head as fit
    from bottleneck.images import find_near_duplicates
    from bottleneck.solvers import KeptReductions

    store = Cache(cache)
    selection = select_features(store, model=model, layer=layer, image_set=image_set, pool=pool)
    features = load_features(store, selection)
    alike = None
    if near_duplicates:
        with progress_shown() as progress:
            alike = find_near_duplicates(features.images, progress=progress)
    bank = store.bank(selection.model, selection.fingerprint)
    train, validation = features.split("train"), features.split("val")
    head = fit(
        train.X,
        train.labels,
        clf,
        C=C,
        groups=train.digests,
        validation=(validation.X, validation.labels) if len(validation) else None,
        balanced=balanced,
        standardize=standardize,
        reduce=KeptReductions(bank.path / "reductions", bank.size),
        source=features.provenance,
        seed=seed,
    )
    folder = heads / (name or f"{selection.slug}-{clf}")
    replaced = folder.exists()
    head.save(folder)
    note_image_set(features.images)
    note_random(selection.weights_random)
    if alike is not None:
        note_near_duplicates(alike)
    if as_json:
        found = {} if alike is None else {"near_duplicates": asdict(alike)}
        leaks = {"leaks": features.images.leaks, "conflicts": features.images.conflicts}
        print_json({"head": folder.name, **head.as_dict(), **leaks, **found})
        return head
    print(
        f"{clf} on {len(train)} images of {selection.image_set!r}, {train.X.shape[1]} features of "
        f"{selection}"
    )
    if "accuracy" in head.scores:
        penalty = [] if head.C is None else [f"C = {head.C:g}"]
        chosen = [f"chosen on {head.scores['held_out']}"] if penalty and C is None else []
        print(", ".join([*penalty, *chosen, f"held-out accuracy {head.scores['accuracy']:.4f}"]))
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
    note_image_set(features.images)
    note_random(fitted.source["weights_random"])
    if as_json:
        print_json({"head": name, **evaluation.as_dict()})
        return evaluation
    low, high = evaluation.accuracy_interval
    print(f"{name} on {evaluation.images} {split} images of {fitted.source['image_set']!r}")
    print(f"accuracy           {evaluation.accuracy:.4f} (95% interval {low:.4f} to {high:.4f})")
    print(f"balanced accuracy  {evaluation.balanced_accuracy:.4f}")
    print(f"log loss           {evaluation.log_loss:.4f}")
    print(f"calibration error  {evaluation.calibration_error:.4f}")
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
    device: Device = "auto",
    batch_size: BatchSize = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON lines, not CSV.")] = False,
) -> None:
    """Print the class and its probability for each image.

    Exits with 1 where images had to be left out; all others are predicted.
    """
    from bottleneck.heads import find_head
    from bottleneck.images import ImageSet, RejectedImage
    from bottleneck.predict import load_base, predict_images

    size = batch_size_of(batch_size)
    _, fitted = find_head(heads, head)
    found = ImageSet.from_paths(images)
    base = load_base(fitted, weights=weights, device=device)
    note_random(base.weights_random)
    note_image_set(found)
    table = csv.writer(sys.stdout, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    if not as_json:
        table.writerow(["path", "class", *(f"p({label})" for label in fitted.classes)])
    rejected = []
    with progress_shown(quiet=not sys.stderr.isatty() or sys.stdout.isatty()) as progress:
        for result in predict_images(fitted, base, found, batch_size=size, progress=progress):
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
    note_rejected(rejected)
    if rejected:
        raise typer.Exit(1)

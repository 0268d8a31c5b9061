"""The commands that work on features: fit-head, evaluate, predict."""

import csv
import json
import sys
from dataclasses import asdict
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
    Balanced,
    BatchSize,
    ByLayer,
    ByModel,
    ByPool,
    BySet,
    CacheFolder,
    Device,
    HeadName,
    HeadsFolder,
    Memory,
    NearDuplicates,
    NewHeadName,
    Seed,
    Standardize,
    batch_size_of,
    memory_of,
)
from bottleneck.cli.output import note, print_json, print_table, progress_shown
from bottleneck.errors import UsageError

if TYPE_CHECKING:
    from bottleneck.heads import Head

__all__ = ["evaluate", "fit_head", "predict"]


@app.command("fit-head")
def fit_head(
    clf: Annotated[
        str,
        typer.Option(
            "--clf",
            help="softmax, logreg, svm, ridge, lda, centroid, knn or mlp. For images of several "
            "classes: logreg, svm, ridge, knn or mlp.",
        ),
    ] = "softmax",
    C: Annotated[
        float | None,
        typer.Option(
            "--C",
            help="Inverse strength of the L2 penalty; by default chosen on "
            "held-out training images, or on the val images where there are any.",
        ),
    ] = None,
    neighbors: Annotated[
        int | None,
        typer.Option("--neighbors", help="How many images vote in knn; chosen like C by default."),
    ] = None,
    hidden: Annotated[int | None, typer.Option("--hidden", help="Hidden units of mlp.")] = None,
    dropout: Annotated[
        float | None, typer.Option("--dropout", help="Share of them left out in a step.")
    ] = None,
    epochs: Annotated[
        int | None, typer.Option("--epochs", help="Most epochs of mlp; it stops by itself.")
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option("--patience", help="Epochs of mlp without a lower held-out loss, to stop."),
    ] = None,
    learning_rate: Annotated[float | None, typer.Option("--learning-rate", help="Of mlp.")] = None,
    picture: Annotated[
        Path | None, typer.Option("--picture", help="Draw the epochs of mlp to this file.")
    ] = None,
    tensorboard: Annotated[
        Path | None,
        typer.Option("--tensorboard", help="Log the epochs of mlp to this folder for TensorBoard."),
    ] = None,
    model: ByModel = None,
    layer: ByLayer = None,
    image_set: BySet = None,
    pool: ByPool = None,
    balanced: Balanced = False,
    standardize: Standardize = True,
    name: NewHeadName = None,
    cache: CacheFolder = Path("cache"),
    heads: HeadsFolder = Path("heads"),
    near_duplicates: NearDuplicates = False,
    memory: Memory = None,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> Any:
    """Fit a classifier on the features of the cache's last extraction."""
    from bottleneck.cache import Cache
    from bottleneck.features import load_features, select_features
    from bottleneck.heads import MLP
    from bottleneck.heads import fit_head as fit
    from bottleneck.images import find_near_duplicates
    from bottleneck.report import draw_history, log_history
    from bottleneck.solvers import KeptReductions

    network: dict[str, Any] = {
        "hidden": hidden,
        "dropout": dropout,
        "epochs": epochs,
        "patience": patience,
        "learning_rate": learning_rate,
    }
    own = {key: value for key, value in network.items() if value is not None}
    shown = {"picture": picture, "tensorboard": tensorboard}
    strange = [*own, *(key for key, value in shown.items() if value)]
    if strange and clf != "mlp":
        raise UsageError(
            f"--{strange[0].replace('_', '-')} is for mlp, not for {clf}; leave it out, or give "
            f"--clf mlp"
        )
    store = Cache(cache)
    selection = select_features(store, model=model, layer=layer, image_set=image_set, pool=pool)
    features = load_features(store, selection, memory=memory_of(memory))
    alike = None
    if near_duplicates:
        with progress_shown() as progress:
            alike = find_near_duplicates(features.images, progress=progress)
    bank = store.bank(selection.model, selection.fingerprint)
    train, validation = features.split("train"), features.split("val")
    with progress_shown(unit="epochs") as progress:
        head = fit(
            train.X,
            train.labels,
            MLP(**own, progress=progress) if clf == "mlp" else clf,
            C=C,
            n_neighbors=neighbors,
            groups=train.digests,
            sample_weight=train.weights,
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
    if picture:
        draw_history(head.scores["history"], folder.name, picture)
        note(f"epochs drawn to {picture}")
    if tensorboard:
        log_history(head.scores["history"], tensorboard / folder.name)
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
    print(", ".join(_told(head)))
    if not head.scores["converged"]:
        note("note: the solver stopped before it converged; a smaller --C converges sooner")
    print(f"saved as {folder}")
    if replaced:
        note("note: it replaces the head that had that name; --name gives another")
    return head


def _told(head: "Head") -> list[str]:
    """Return what was chosen, on what, and how good it is there."""
    facts = [f"{name} = {value:g}" for name, value in head.hyperparameters.items()]
    if "held_out" not in head.scores:
        return facts
    if len(head.scores["candidates"]) > 1:
        facts.append(f"chosen on {head.scores['held_out']}")
    if history := head.scores.get("history"):
        best = min(history, key=lambda epoch: epoch["val_loss"])["epoch"]
        facts.append(f"best epoch {best} of {len(history)}")
    names = ["average_precision"] if head.multilabel else []
    shown = [f"{name.replace('_', ' ')} {head.scores[name]:.4f}" for name in [*names, "accuracy"]]
    return facts + [f"held-out {each}" for each in shown]


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
    features = features_of(fitted.source, Cache(cache), memory=memory_of(None))
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
    print(f"average precision  {evaluation.average_precision:.4f}")
    print_table([vars(found) for found in evaluation.classes])
    if evaluation.confusion is not None:
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

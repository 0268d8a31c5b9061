"""The command that fits a head: fit-head."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bottleneck.cli.app import app
from bottleneck.cli.notes import note_image_set, note_near_duplicates, note_random, note_seen
from bottleneck.cli.options import (
    AsJson,
    Balanced,
    ByAugment,
    ByLayer,
    ByModel,
    ByPool,
    BySet,
    ByViews,
    CacheFolder,
    HeadsFolder,
    Memory,
    NearDuplicates,
    NewHeadName,
    Seed,
    Standardize,
    TrainingDevice,
    device_of,
    memory_of,
)
from bottleneck.cli.output import note, print_json, progress_shown
from bottleneck.errors import UsageError

if TYPE_CHECKING:
    from bottleneck.heads import Head

__all__ = ["fit_head"]


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
    views: ByViews = None,
    augment: ByAugment = None,
    balanced: Balanced = False,
    standardize: Standardize = True,
    name: NewHeadName = None,
    cache: CacheFolder = Path("cache"),
    heads: HeadsFolder = Path("heads"),
    near_duplicates: NearDuplicates = False,
    memory: Memory = None,
    device: TrainingDevice = "cpu",
    seed: Seed = 0,
    as_json: AsJson = False,
) -> Any:
    """Fit a classifier on the features of the cache's last extraction."""
    from bottleneck.cache import Cache
    from bottleneck.features import load_features, select_features
    from bottleneck.heads import MLP
    from bottleneck.heads import fit_head as fit
    from bottleneck.images import find_near_duplicates
    from bottleneck.report import check_picture
    from bottleneck.solvers import KeptReductions

    network = _given(
        hidden=hidden,
        dropout=dropout,
        epochs=epochs,
        patience=patience,
        learning_rate=learning_rate,
    )
    strange = [*network, *_given(picture=picture, tensorboard=tensorboard)]
    if strange and clf != "mlp":
        raise UsageError(
            f"--{strange[0].replace('_', '-')} is for mlp, not for {clf}; leave it out, or give "
            f"--clf mlp"
        )
    if picture:
        check_picture(picture)
    trained_on = device_of(device)
    store = Cache(cache)
    selection = select_features(
        store,
        model=model,
        layer=layer,
        image_set=image_set,
        pool=pool,
        views=views,
        policy=augment,
    )
    features = load_features(store, selection, memory=memory_of(memory))
    alike = None
    if near_duplicates:
        with progress_shown() as progress:
            alike = find_near_duplicates(features.images, progress=progress)
    banks = store.banks_of(selection)
    train, validation = features.training(), features.split("val")
    with progress_shown(unit="epochs") as progress:
        head = fit(
            train.X,
            train.labels,
            MLP(**network, progress=progress) if clf == "mlp" else clf,
            C=C,
            n_neighbors=neighbors,
            groups=train.digests,
            sample_weight=train.weights,
            plain=train.views == 0,
            validation=(validation.X, validation.labels) if len(validation) else None,
            balanced=balanced,
            standardize=standardize,
            multilabel=features.images.multilabel,
            reduce=KeptReductions(banks[0].path / "reductions", sum(bank.size for bank in banks)),
            source=features.provenance,
            seed=seed,
            device=trained_on,
        )
    folder = heads / (name or f"{selection.slug}-{clf}")
    replaced = folder.exists()
    head.save(folder)
    if clf == "mlp":
        _show_history(head.scores["history"], folder.name, picture, tensorboard)
    note_image_set(features.images)
    note_random(selection.weights_random)
    note_seen(selection.model, features.images, ["train", "val"])
    if alike is not None:
        note_near_duplicates(alike)
    if as_json:
        found = {} if alike is None else {"near_duplicates": asdict(alike)}
        leaks = {"leaks": features.images.leaks, "conflicts": features.images.conflicts}
        print_json({"head": folder.name, **head.as_dict(), **leaks, **found})
        return head
    print(
        f"{clf} on {int((train.views == 0).sum())} images"
        f"{f', {selection.views} views each' if selection.views else ''} of "
        f"{selection.image_set!r}, {train.X.shape[1]} features of {selection}"
    )
    _print_scores(head)
    print(f"saved as {folder}")
    if replaced:
        note("note: it replaces the head that had that name; --name gives another")
    return head


def _show_history(
    history: list[dict[str, float]], name: str, picture: Path | None, tensorboard: Path | None
) -> None:
    from bottleneck.report import draw_history, epoch_log

    if picture:
        kept = min(history, key=lambda epoch: epoch["val_loss"])["epoch"]
        draw_history(history, int(kept), name, picture)
        note(f"epochs drawn to {picture}")
    if tensorboard:
        with epoch_log(tensorboard / name) as log:
            for epoch in history:
                log(epoch)


def _given(**options: Any) -> dict[str, Any]:
    """Return the options that are given."""
    return {name: value for name, value in options.items() if value is not None}


def _print_scores(head: "Head") -> None:
    """Print what was chosen, on what, and how good it is there."""
    facts = [f"{name} = {value:g}" for name, value in head.hyperparameters.items()]
    scores = head.scores
    if "held_out" in scores:
        if len(scores["candidates"]) > 1:
            facts.append(f"chosen on {scores['held_out']}")
        if history := scores.get("history"):
            best = min(history, key=lambda epoch: epoch["val_loss"])["epoch"]
            facts.append(f"best epoch {best} of {len(history)}")
        if head.multilabel:
            facts.append(f"held-out average precision {scores['average_precision']:.4f}")
        facts.append(f"held-out accuracy {scores['accuracy']:.4f}")
    print(", ".join(facts))
    if "held_out" in scores:
        print(
            f"held-out calibration error {scores['calibration_error']:.4f}, "
            f"{scores['calibration_error_without_temperature']:.4f} before its temperature of "
            f"{head.temperature:.3g}"
        )
    if not scores.get("converged", True):
        note("note: the solver stopped before it converged; a smaller --C converges sooner")

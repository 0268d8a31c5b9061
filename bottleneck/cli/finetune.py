"""The command that trains a base further: finetune."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bottleneck.cli.app import app
from bottleneck.cli.notes import note_image_set, note_rejected
from bottleneck.cli.options import (
    AsJson,
    Balanced,
    CacheFolder,
    Device,
    HeadName,
    HeadsFolder,
    Seed,
    SetName,
    plain,
)
from bottleneck.cli.output import note, print_json, progress_shown
from bottleneck.errors import UsageError

if TYPE_CHECKING:
    from bottleneck.finetune import Finetuned

__all__ = ["finetune"]


@app.command()
def finetune(
    unfreeze: Annotated[
        str,
        typer.Option(
            "--unfreeze",
            metavar="LAYER|all",
            help="Train from this layer, alias or module on; 'bottleneck layers MODEL' lists them.",
            show_default=False,
        ),
    ],
    head: HeadName = None,
    name: Annotated[
        str | None,
        typer.Option(
            "--name", callback=plain, help="Name of the result; HEAD-finetuned by default."
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data", help="Images, as for extract; those that the head was fitted on by default."
        ),
    ] = None,
    image_set: SetName = None,
    val_share: Annotated[
        float | None,
        typer.Option(
            "--val-share",
            help="Share of the training images to hold out, where the set has no val images.",
        ),
    ] = None,
    epochs: Annotated[int, typer.Option("--epochs", help="Most epochs.")] = 20,
    patience: Annotated[
        int, typer.Option("--patience", help="Epochs without a lower validation loss, to stop.")
    ] = 10,
    batch_size: Annotated[
        int, typer.Option("--batch-size", help="Images in a step, over all devices.")
    ] = 32,
    accumulate: Annotated[
        int,
        typer.Option(
            "--accumulate",
            help="Pieces in which a step goes through its images; more need less memory.",
        ),
    ] = 1,
    optimizer: Annotated[
        str, typer.Option("--optimizer", help="adamw, sgd (with momentum) or rmsprop.")
    ] = "adamw",
    learning_rate: Annotated[
        float, typer.Option("--learning-rate", help="Of the head; layers have less.")
    ] = 1e-3,
    base_share: Annotated[
        float, typer.Option("--base-share", help="What the last block's rate is of the head's.")
    ] = 0.1,
    block_decay: Annotated[
        float, typer.Option("--block-decay", help="What a block's rate is of the next one's.")
    ] = 0.5,
    schedule: Annotated[
        str, typer.Option("--schedule", help="How rates go on: cosine or constant.")
    ] = "cosine",
    warm_up: Annotated[
        float, typer.Option("--warm-up", help="Share of the steps in which rates rise.")
    ] = 0.1,
    weight_decay: Annotated[
        float, typer.Option("--weight-decay", help="Not of biases and of what normalises.")
    ] = 0.01,
    clip: Annotated[
        float, typer.Option("--clip", help="The longest that a gradient may be; inf: any length.")
    ] = 1.0,
    label_smoothing: Annotated[
        float,
        typer.Option("--label-smoothing", help="Share of each target that is spread over all."),
    ] = 0.0,
    batch_statistics: Annotated[
        bool,
        typer.Option(
            "--batch-statistics/--kept-statistics",
            help="Let batch normalisation in what is trained take mean and variance of each batch, "
            "or keep its own.",
        ),
    ] = False,
    balanced: Balanced = False,
    precision: Annotated[
        str,
        typer.Option("--precision", help="32-true, bf16-mixed, or 16-mixed on GPUs."),
    ] = "32-true",
    augment: Annotated[
        str,
        typer.Option(
            "--augment",
            help="How training images are augmented: none, flip, standard, crop, color, noise, "
            "elastic, trivial, or a YAML file.",
        ),
    ] = "none",
    views: Annotated[
        int | None,
        typer.Option(
            "--views",
            help="After how many epochs an image's views come again; needed at --augment with "
            "--from-cache.",
        ),
    ] = None,
    from_cache: Annotated[
        bool,
        typer.Option(
            "--from-cache",
            help="Train on cached activations of the layer below, computed once: no epoch touches "
            "images or frozen layers.",
        ),
    ] = False,
    dtype: Annotated[
        str, typer.Option("--dtype", help="How these are stored: float16 or float32.")
    ] = "float16",
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with an interrupted run of that name.")
    ] = False,
    picture: Annotated[
        Path | None, typer.Option("--picture", help="Draw the epochs to this file.")
    ] = None,
    tensorboard: Annotated[
        Path | None,
        typer.Option("--tensorboard", help="Log the epochs to this folder for TensorBoard."),
    ] = None,
    weights: Annotated[
        str | None, typer.Option("--weights", help="The base's weights, where they have moved.")
    ] = None,
    cache: CacheFolder = Path("cache"),
    heads: HeadsFolder = Path("heads"),
    device: Device = "auto",
    devices: Annotated[
        int | None,
        typer.Option(
            "--devices",
            min=1,
            help="Processes on the processor, or GPUs, that share each step; those that --device "
            "names by default.",
        ),
    ] = None,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> Any:
    """Train the top of a base, or all of it, on from a head; the result is a base as well.

    Exits with 1 where images had to be left out, or the training diverged; what was best is saved.
    """
    from bottleneck.cache import Cache
    from bottleneck.finetune import FinetuneSettings, default_images
    from bottleneck.finetune import finetune as train
    from bottleneck.finetune.checkpoints import Checkpoint
    from bottleneck.finetune.prepare import is_first_process
    from bottleneck.heads import find_head
    from bottleneck.images import ImageSet
    from bottleneck.report import check_picture

    settings = FinetuneSettings(
        unfreeze=unfreeze,
        epochs=epochs,
        patience=patience,
        batch_size=batch_size,
        accumulate=accumulate,
        optimizer=optimizer,
        learning_rate=learning_rate,
        base_share=base_share,
        block_decay=block_decay,
        schedule=schedule,
        warm_up=warm_up,
        weight_decay=weight_decay,
        clip=clip,
        label_smoothing=label_smoothing,
        precision=precision,
        augment=augment,
        views=views,
        from_cache=from_cache,
        dtype=dtype,
        val_share=val_share,
        batch_statistics=batch_statistics,
        balanced=balanced,
        seed=seed,
    )
    if picture:
        check_picture(picture)
    store, first = Cache(cache), is_first_process()
    start, fitted = find_head(heads, head)
    images = (
        ImageSet.open(data, name=image_set, seed=seed) if data else default_images(fitted, store)
    )
    folder = heads / (name or f"{start.resolve().name}-finetuned")
    if folder.resolve() == start.resolve():
        raise UsageError(
            f"the result would replace {start.name!r}, from which it starts; give another --name"
        )
    replaced = (folder / "head.json").exists()
    if first:
        note_image_set(images)
    try:
        with (
            progress_shown(quiet=not first) as progress,
            _epochs_shown(
                epochs, tensorboard / folder.name if tensorboard and first else None
            ) as watch,
        ):
            done = train(
                fitted,
                images,
                store,
                folder,
                settings,
                weights=weights,
                device=device,
                devices=devices,
                resume=resume,
                progress=progress,
                watch=watch,
            )
    except SystemExit:
        if first and Checkpoint.of(folder).exists:
            note("stopped: the same command with --resume goes on after the last whole epoch")
        raise
    if not first:
        return done
    if as_json:
        print_json({"head": folder.name, "model": str(folder), **done.head.as_dict()})
    else:
        _print(done, unfreeze)
    if replaced:
        note("note: it replaces the head that had that name; --name gives another")
    _note_end(done, learning_rate)
    note_rejected(done.rejected)
    _draw(done, picture)
    if done.rejected or done.diverged:
        raise typer.Exit(1)
    return done


def _print(done: "Finetuned", unfreeze: str) -> None:
    """Print what was trained, how it went, and where the result is."""
    from bottleneck.records import known_source

    scores, source = done.head.scores, known_source(done.head.source)
    print(
        f"{done.trained:,} parameters from {unfreeze!r} to {source.layer_name!r} "
        f"and the {done.head.clf} head, trained on {done.train} images, validated on {done.val}"
    )
    print(
        f"best epoch {scores['best_epoch']} of {len(scores['history'])}, validation accuracy "
        f"{scores['start_val_accuracy']:.4f} before, {scores['accuracy']:.4f} after; log loss "
        f"{scores['start_val_loss']:.4g} before, {scores['log_loss']:.4g} after"
    )
    print(f"saved as {done.folder}, a head and a model")


@contextmanager
def _epochs_shown(
    epochs: int, log_folder: Path | None
) -> Iterator[Callable[[Mapping[str, float]], None]]:
    """Yield what says how an epoch went, and logs it where there is a folder for that."""
    from bottleneck.report import epoch_log

    with epoch_log(log_folder) if log_folder else nullcontext() as log:

        def watch(epoch: Mapping[str, float]) -> None:
            note(
                f"epoch {epoch['epoch']} of {epochs}: loss {epoch['loss']:.4g}, accuracy "
                f"{epoch['accuracy']:.4f}; validation loss {epoch['val_loss']:.4g}, accuracy "
                f"{epoch['val_accuracy']:.4f}"
            )
            if log:
                log(epoch)

        yield watch


def _draw(done: "Finetuned", picture: Path | None) -> None:
    from bottleneck.report import draw_history

    scores = done.head.scores
    if picture and scores["history"]:
        draw_history(scores["history"], scores["best_epoch"], done.folder.name, picture)
        note(f"epochs drawn to {picture}")


def _note_end(done: "Finetuned", learning_rate: float) -> None:
    """Say what went wrong in the training, if anything did."""
    best = done.head.scores["best_epoch"]
    if done.diverged:
        kept = f"as after epoch {best}" if best else "as before the first"
        note(
            f"warning: the training diverged in epoch {done.diverged}: its loss was no finite "
            f"number; saved is the network {kept}: give a --learning-rate below {learning_rate:g}"
        )
    elif not best:
        note(
            "note: no epoch was better on the validation images than the head as it was, and "
            "nothing was changed; another layer, --augment or a lower --learning-rate may help"
        )

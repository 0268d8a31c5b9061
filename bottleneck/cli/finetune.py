"""The command that trains a base further: finetune."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from bottleneck.cli.command import add_command
from bottleneck.cli.notes import note_image_set, note_rejected
from bottleneck.cli.options import (
    AsJson,
    CacheFolder,
    HeadName,
    HeadsFolder,
    NewName,
    OtherData,
    Picture,
    Resume,
    TensorBoard,
    check_picture,
)
from bottleneck.cli.output import loading, note, print_json, progress_shown
from bottleneck.errors import UsageError
from bottleneck.settings import DeviceSettings, FinetuneSettings, NewSet

if TYPE_CHECKING:
    from bottleneck.finetune import Finetuned

__all__ = ["finetune"]


@add_command("finetune", "Fine-tune")
def finetune(
    settings: FinetuneSettings,
    devices: DeviceSettings,
    head: HeadName = None,
    name: NewName = None,
    data: OtherData = None,
    image_set: NewSet = None,
    resume: Resume = False,
    picture: Picture = None,
    tensorboard: TensorBoard = None,
    cache: CacheFolder = Path("cache"),
    heads: HeadsFolder = Path("heads"),
    as_json: AsJson = False,
) -> Any:
    """Train the top of a base, or all of it, on from a head; the result is a base as well.

    Exits with 1 where images had to be left out, or the training diverged; what was best is saved.
    """
    from bottleneck.cache import Cache
    from bottleneck.heads import find_head
    from bottleneck.images import ImageSet

    check_picture(picture)
    store = Cache(cache)
    start, fitted = find_head(heads, head)
    images = ImageSet.open(data, name=image_set, seed=settings.seed) if data else None
    folder = heads / (name or f"{start.resolve().name}-finetuned")
    if folder.resolve() == start.resolve():
        raise UsageError(f"the result would replace {start.name!r}, its start; give another `name`")
    replaced = (folder / "head.json").exists()
    with loading():
        from bottleneck.finetune import default_images, finetune_head, is_first_process
    images = images or default_images(fitted, store)
    first = is_first_process()
    if first:
        note_image_set(images)
    with _training_shown(folder, settings, tensorboard, quiet=not first) as shown:
        options = vars(devices) | {"resume": resume} | shown
        done = finetune_head(fitted, images, store, folder, settings, **options)
    if first:
        _tell(done, settings, replaced=replaced, as_json=as_json)
        _draw(done, picture)
    if first and (done.rejected or done.diverged):
        raise typer.Exit(1)
    return done


def _tell(done: "Finetuned", settings: FinetuneSettings, *, replaced: bool, as_json: bool) -> None:
    """Print the result, and what was odd."""
    if as_json:
        print_json({"head": done.folder.name, "model": str(done.folder), **done.head.as_dict()})
    else:
        _print(done, settings.unfreeze)
    if replaced:
        note("note: it replaces the head that had that name; --name gives another")
    _note_end(done, settings.learning_rate)
    note_rejected(done.rejected)


@contextmanager
def _training_shown(
    folder: Path, settings: FinetuneSettings, tensorboard: Path | None, *, quiet: bool
) -> Iterator[dict[str, Any]]:
    """Yield what reports a training: ``progress`` and ``watch``; say how an interrupted goes on."""
    from bottleneck.finetune.checkpoints import Checkpoint

    log = tensorboard / folder.name if tensorboard and not quiet else None
    try:
        with progress_shown(quiet=quiet) as progress, _epochs_shown(settings.epochs, log) as watch:
            yield {"progress": progress, "watch": watch}
    except SystemExit:
        if not quiet and Checkpoint(folder).exists:
            note("stopped: the same command with --resume goes on after the last whole epoch")
        raise


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
    from bottleneck.pictures import epoch_log

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
    from bottleneck.pictures import draw_history

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

"""Checkpoints: the state of training after each epoch, in one file without pickle."""

import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from shutil import rmtree
from tempfile import TemporaryFile
from typing import Any, ClassVar

import torch
from safetensors import safe_open
from safetensors.torch import save

from bottleneck.errors import UsageError, first_line, is_out_of_memory
from bottleneck.files import atomic_write
from bottleneck.finetune.loop import Training
from bottleneck.folders import remove_leftovers
from bottleneck.heads import Head
from bottleneck.heads.training import State
from bottleneck.images import ImageSet, RejectedImage
from bottleneck.inputs import check_regular
from bottleneck.records import Json, Record, read_record, write_record
from bottleneck.settings import FinetuneSettings

__all__ = ["Checkpoint", "PlanRecord", "changed_settings"]

_FOLDER = "checkpoint"
_PLAN_FILE = "plan.json"
_HEAD_FOLDER = "head"
_IMAGES_FILE = "images.csv"
_STATE_FILE = "state.safetensors"
_FACTS = "facts"


@dataclass(frozen=True, kw_only=True)
class PlanRecord(Record):
    """``plan.json``: what a run trains, which must be the same to resume it.

    Attributes
    ----------
    settings : dict
        The result of `FinetuneSettings.as_dict`.
    start : dict
        The head, its base, the image set and the augmentation, under these keys.
    rejected : tuple of RejectedImage
        Images that could not be used; may differ.
    """

    SCHEMA: ClassVar[int] = 2
    SENTENCE: ClassVar[str] = (
        "the checkpoint's {path!r} cannot be read ({error}); remove {folder!r} to start over"
    )

    settings: dict[str, Json]
    start: dict[str, Json]
    rejected: tuple[RejectedImage, ...] = ()


class Checkpoint:
    """The folder of an unfinished run, inside the folder of its result.

    Parameters
    ----------
    result : Path
        Folder of the result.
    """

    def __init__(self, result: Path) -> None:
        self.result, self.folder = result, result / _FOLDER

    @property
    def exists(self) -> bool:
        """Whether there is an unfinished run with a complete epoch."""
        return (self.folder / _STATE_FILE).is_file()

    def begin(self, plan: PlanRecord, images: ImageSet, head: Head | None = None) -> None:
        """Record what is going to be trained, how, and on which images.

        Parameters
        ----------
        plan : PlanRecord
            Settings and start of the run.
        images : ImageSet
            The images to train and to validate on.
        head : Head, optional
            The head to start from, if it is not the given one.

        Raises
        ------
        OSError
            The folder cannot be written.
        """
        plan = replace(plan, rejected=images.rejected)
        write_record(self.folder / _PLAN_FILE, plan)  # first, as `forget` looks for it
        if head:
            head.save(self.folder / _HEAD_FOLDER)
        images.write_csv(self.folder / _IMAGES_FILE)

    def images(self) -> ImageSet:
        """Return the images of the unfinished run."""
        plan = read_record(self.folder / _PLAN_FILE, PlanRecord)
        return replace(ImageSet.read_csv(self.folder / _IMAGES_FILE), rejected=plan.rejected)

    def head(self) -> Head | None:
        """Return the head that the unfinished run started from, if it was not the given one."""
        folder = self.folder / _HEAD_FOLDER
        return Head.load(folder) if folder.is_dir() else None

    def check(self, plan: PlanRecord, settings: FinetuneSettings) -> None:
        """Check that a run is resumed with the same settings and the same start.

        Parameters
        ----------
        plan : PlanRecord
            Settings and start of the run to resume.
        settings : FinetuneSettings
            How.

        Raises
        ------
        UsageError
            They differ, or there is no unfinished run.
        DataError
            The record of the run is damaged.
        """
        if not self.exists:
            raise UsageError(
                f"no unfinished run in {str(self.result)!r}; leave `resume` out to start one"
            )
        noted = read_record(self.folder / _PLAN_FILE, PlanRecord)
        others = [key for key in plan.start if plan.start[key] != noted.start.get(key)]
        if changed := changed_settings(settings, noted.settings):
            before = ", ".join(_shown(name, noted.settings.get(name)) for name in changed)
            now = ", ".join(_shown(name, plan.settings[name]) for name in changed)
            found = f"was started with {before}, not with {now}"
        elif others:
            found = f"was started from another {others[0]}"
        else:
            return
        raise UsageError(
            f"the unfinished run in {str(self.result)!r} {found}; give the same to resume it, or "
            f"remove {str(self.folder)!r} to start over"
        )

    def save(self, training: Training, state: State) -> None:
        """Write everything that the next epoch needs, completely or not at all.

        Parameters
        ----------
        training : Training
            The training, with its network and optimizer.
        state : State
            The progress of the training.

        Raises
        ------
        OSError
            The folder cannot be written.
        """
        atomic_write(self.folder / _STATE_FILE, _content(training, state))

    def seconds_to_save(self, training: Training, state: State) -> float:
        """Write what `save` writes to a temporary file; return how long that took.

        Parameters
        ----------
        training : Training
            As for `save`, with the optimizer's state after a step.
        state : State
            As for `save`.

        Returns
        -------
        float
            Wall time.

        Raises
        ------
        OSError
            The folder cannot be written.
        """
        began = time.perf_counter()
        with TemporaryFile(dir=self.folder) as file:  # of which a killed process leaves nothing
            file.write(_content(training, state))
            file.flush()
            os.fsync(file.fileno())
        return time.perf_counter() - began

    def load(self, training: Training) -> State:
        """Restore a training to the state of the unfinished run.

        Parameters
        ----------
        training : Training
            The training whose network and optimizer are restored.

        Returns
        -------
        State
            The progress of the training.

        Raises
        ------
        DataError
            The checkpoint is damaged.
        """
        path = self.folder / _STATE_FILE
        try:
            check_regular(path)
            with safe_open(path, "pt") as file:
                facts = json.loads(file.metadata()[_FACTS])
                names = file.keys()
                tensors = {name: file.get_tensor(name) for name in names}
            known = training.optimizer.state_dict()
            places = [place for group in known["param_groups"] for place in group["params"]]
            known["state"] = {place: _part(tensors, f"optimizer.{place}") for place in places}
            training.optimizer.load_state_dict(known)
            _lay_out_alike(training.optimizer)
            best = _part(tensors, "best")
            chosen = {name: each.numpy() for name, each in _part(tensors, "choice").items()}
            training.choice.restore(chosen)
            training.network.load_tuned(_part(tensors, "tuned"))
            training.fabric.strategy.precision.load_state_dict(facts["scaler"])
            training.plan(facts["epochs"])
            return State(facts["start"], best, facts["history"], facts["best_epoch"])
        except Exception as error:  # damaged bytes make the readers raise whatever they meet
            if is_out_of_memory(error):
                raise
            found = ValueError(f"{type(error).__name__}: {first_line(error)}")
            raise PlanRecord.refusal(path, found) from error

    def remove(self) -> None:
        """Remove what the finished run no longer needs."""
        (self.folder / _STATE_FILE).unlink(missing_ok=True)  # first: the rest alone is no run
        rmtree(self.folder / _HEAD_FOLDER, ignore_errors=True)
        remove_leftovers(self.folder, _HEAD_FOLDER)
        for name in (_IMAGES_FILE, _PLAN_FILE):
            (self.folder / name).unlink(missing_ok=True)
        for folder in (self.folder, self.result):
            with suppress(OSError):  # there is more in it, or it is not there
                folder.rmdir()

    def forget(self) -> None:
        """Remove the files of a run that ended before its first epoch was complete."""
        if (self.folder / _PLAN_FILE).is_file() and not self.exists:
            self.remove()


def changed_settings(settings: FinetuneSettings, noted: Mapping[str, Any]) -> list[str]:
    """Return the names of settings that differ from those of another run, and matter.

    Parameters
    ----------
    settings : FinetuneSettings
        The settings.
    noted : mapping of str to Any
        `FinetuneSettings.as_dict` of the other run.

    Returns
    -------
    list of str
    """
    free = {"recipe"}  # its values count, however they were given
    if settings.freeze_batch_norm and settings.mix == "none":
        free.add("accumulate")  # nothing else depends on the pieces of a step
    own = settings.as_dict()
    return [name for name in own if own[name] != noted.get(name) and name not in free]


def _lay_out_alike(optimizer: torch.optim.Optimizer) -> None:
    """Give state the memory layout of its parameter, which fused optimizers take for granted."""
    for parameter, values in optimizer.state.items():
        for name, each in values.items():
            if isinstance(each, torch.Tensor) and each.shape == parameter.shape:
                values[name] = torch.empty_like(parameter, dtype=each.dtype).copy_(each)


def _content(training: Training, state: State) -> bytes:
    """Return everything that the next epoch needs as a file of tensors."""
    optimizer = training.optimizer.state_dict()["state"]
    parts = {f"optimizer.{place}": values for place, values in optimizer.items()}
    parts |= {"tuned": training.weights(), "best": state.best}
    chosen = training.choice.state().items()
    parts["choice"] = {name: torch.from_numpy(array) for name, array in chosen}
    tensors = {
        f"{part}.{name}": each.detach().cpu().contiguous()
        for part, values in parts.items()
        for name, each in values.items()
        if isinstance(each, torch.Tensor)
    }
    facts = {"history": state.history, "start": state.start, "best_epoch": state.best_epoch}
    facts["epochs"] = training.settings.epochs  # as planned
    facts["scaler"] = training.fabric.strategy.precision.state_dict()
    return save(tensors, metadata={_FACTS: json.dumps(facts)})


def _shown(name: str, value: Json) -> str:
    """Return a setting as it is given; None is the absence of a limit."""
    return f"no `{name}`" if value is None else f"`{name}={value}`"


def _part(tensors: Mapping[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    """Return the tensors whose names begin with a name and a point, without both."""
    prefix = f"{name}."
    own = (key for key in tensors if key.startswith(prefix))
    return {key.removeprefix(prefix): tensors[key] for key in own}

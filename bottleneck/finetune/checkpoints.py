"""Checkpoints: after each epoch all that the next one needs, in one file without pickle."""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import safe_open
from safetensors.torch import save

from bottleneck.errors import DataError, UsageError, is_out_of_memory
from bottleneck.files import atomic_write, read_json, write_json
from bottleneck.finetune.loop import State, Training
from bottleneck.images import ImageSet
from bottleneck.settings import FinetuneSettings

__all__ = ["Checkpoint"]

_FOLDER = "checkpoint"
_PLAN_FILE = "plan.json"
_IMAGES_FILE = "images.csv"
_STATE_FILE = "state.safetensors"
_FACTS = "facts"


@dataclass(frozen=True)
class Checkpoint:
    """The folder of an unfinished run.

    Attributes
    ----------
    folder : Path
        ``checkpoint`` in the folder of what will be the result.
    """

    folder: Path

    @classmethod
    def of(cls, result: Path) -> Self:
        """Return that of the run whose result a folder is going to be."""
        return cls(result / _FOLDER)

    @property
    def exists(self) -> bool:
        """Whether there is an unfinished run with an epoch that it could go on after."""
        return (self.folder / _STATE_FILE).is_file()

    def begin(self, settings: FinetuneSettings, start: Mapping[str, Any], images: ImageSet) -> None:
        """Note what is going to be trained, how and on which images.

        Parameters
        ----------
        settings : FinetuneSettings
            How.
        start : mapping
            What the training starts from and is bound to, as JSON holds it.
        images : ImageSet
            Those to train and to validate on.
        """
        images.write_csv(self.folder / _IMAGES_FILE)
        write_json(self.folder / _PLAN_FILE, {"settings": settings.as_dict(), "start": dict(start)})

    def images(self) -> ImageSet:
        """Return the images of the unfinished run."""
        return ImageSet.read_csv(self.folder / _IMAGES_FILE)

    def check(self, settings: FinetuneSettings, start: Mapping[str, Any]) -> None:
        """Refuse to go on with other settings, or from another start.

        Raises
        ------
        UsageError
            They are others, or there is no unfinished run.
        DataError
            What was noted of it is damaged.
        """
        if not self.exists:
            raise UsageError(
                f"no unfinished run in {str(self.folder.parent)!r}; leave `resume` out to begin one"
            )
        try:
            plan = read_json(self.folder / _PLAN_FILE)
        except ValueError as error:
            raise self._damaged(error) from error
        if name := settings.difference(plan["settings"]):
            raise UsageError(
                f"the unfinished run in {str(self.folder.parent)!r} has {name} "
                f"{plan['settings'].get(name)!r}, not {settings.as_dict()[name]!r}; give the same "
                f"to resume it, or remove {str(self.folder)!r} to begin anew"
            )
        changed = next((key for key in start if start[key] != plan["start"].get(key)), None)
        if changed:
            raise UsageError(
                f"the unfinished run in {str(self.folder.parent)!r} began with another {changed}; "
                f"give the same to resume it, or remove {str(self.folder)!r} to begin anew"
            )

    def save(self, training: Training, state: State) -> None:
        """Write all that the next epoch needs, whole or not at all."""
        optimizer = training.optimizer.state_dict()["state"]
        scaler = training.fabric.strategy.precision.state_dict()
        tensors = {f"tuned.{name}": each for name, each in training.network.tuned_state().items()}
        tensors |= {f"best.{name}": each for name, each in state.best.items()}
        for place, values in optimizer.items():
            for name, each in values.items():
                if isinstance(each, torch.Tensor):
                    tensors[f"optimizer.{place}.{name}"] = each.detach().cpu()
        facts = {
            "history": state.history,
            "start": state.start,
            "best_epoch": state.best_epoch,
            "scaler": scaler,
        }
        packed = {name: each.contiguous() for name, each in tensors.items()}
        content = save(packed, metadata={_FACTS: json.dumps(facts)})
        atomic_write(self.folder / _STATE_FILE, content)

    def load(self, training: Training) -> State:
        """Bring a training to where the unfinished run was.

        Raises
        ------
        DataError
            The checkpoint is damaged.
        """
        tensors: dict[str, dict[str, torch.Tensor]] = {"tuned": {}, "best": {}, "optimizer": {}}
        try:
            with safe_open(self.folder / _STATE_FILE, "pt") as file:
                facts = json.loads(file.metadata()[_FACTS])
                for key in file.keys():  # noqa: SIM118 - it is no mapping
                    kind, _, name = key.partition(".")
                    tensors[kind][name] = file.get_tensor(key)
        except Exception as error:  # damaged bytes make the reader raise whatever it meets
            if is_out_of_memory(error):
                raise
            raise self._damaged(error) from error
        training.network.load_tuned(tensors["tuned"])
        groups = training.optimizer.state_dict()["param_groups"]
        states: dict[int, dict[str, torch.Tensor]] = {}
        for key, each in tensors["optimizer"].items():
            place, _, name = key.partition(".")
            states.setdefault(int(place), {})[name] = each
        training.optimizer.load_state_dict({"state": states, "param_groups": groups})
        training.fabric.strategy.precision.load_state_dict(facts["scaler"])
        return State(facts["history"], facts["start"], tensors["best"], facts["best_epoch"])

    def remove(self) -> None:
        """Remove what the finished run does not need any more."""
        for name in (_STATE_FILE, _IMAGES_FILE, _PLAN_FILE):
            (self.folder / name).unlink(missing_ok=True)
        for folder in (self.folder, self.folder.parent):
            with suppress(OSError):  # there is more in it, or it is not there
                folder.rmdir()

    def forget(self) -> None:
        """Remove what a run has left that ended before its first epoch did."""
        if (self.folder / _PLAN_FILE).is_file() and not self.exists:
            self.remove()

    def _damaged(self, error: Exception) -> DataError:
        return DataError(
            f"the checkpoint in {str(self.folder)!r} is damaged ({type(error).__name__}: {error}); "
            f"remove it and begin anew"
        )

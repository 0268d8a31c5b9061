"""Workers of an extraction in other processes, which compute slices of a pass."""

import os
import socket
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch

import bottleneck
from bottleneck.bases.frozen import FrozenBase
from bottleneck.cache import Cache
from bottleneck.cache.leases import has_lease
from bottleneck.errors import BottleneckError, CacheError, ClusterError, first_line
from bottleneck.extract.outcomes import Part
from bottleneck.extract.passes import stored_chunks
from bottleneck.extract.plan import Task
from bottleneck.extract.slices import Answer, unread_reason
from bottleneck.extract.store import Target, find_targets
from bottleneck.images import ImageItem
from bottleneck.locks import Holder
from bottleneck.settings import BaseSettings, StoreSettings

__all__ = ["Job", "Worker"]

_TELL_SECONDS = 2.0
_SEEN_SECONDS = 15.0
"""Within this time, a network file system shows a new file."""


@dataclass(frozen=True)
class Job:
    """What the workers of a pass have in common.

    Attributes
    ----------
    version : str
        That of this package.
    holder : Holder
        The process that they work for, which has a lease in the cache.
    folder, cache : str
        The working folder, from which relative paths lead, and the cache; absolute.
    bases : tuple of BaseSettings
        The base of each part.
    layers, banks : tuple of tuple of str
        The layers of each part, and the names of their banks.
    settings : StoreSettings
        What is stored.
    augmented : bool
        Whether the parts are augmented views.
    threads : int
        Number of threads of a worker.
    """

    version: str
    holder: Holder
    folder: str
    cache: str
    bases: tuple[BaseSettings, ...]
    layers: tuple[tuple[str, ...], ...]
    banks: tuple[tuple[str, ...], ...]
    settings: StoreSettings
    augmented: bool
    threads: int

    @classmethod
    def of(cls, parts: Sequence[Part], cache: Cache, *, device: str, threads: int) -> "Job":
        """Return the job of a pass.

        Parameters
        ----------
        parts : sequence of Part
            What to compute and where to store it.
        cache : Cache
            The cache.
        device : str
            Device of the workers: ``cpu``, or ``auto`` for the GPU that each is given.
        threads : int
            Number of threads of a worker.

        Returns
        -------
        Job
        """
        targets = [part.target for part in parts]
        layers = tuple(part.task.layers for part in parts)
        return cls(
            version=bottleneck.__version__,
            holder=Holder.current(),
            folder=str(Path.cwd()),
            cache=str(cache.root.absolute()),
            bases=tuple(_settings_of(target.base, device) for target in targets),
            layers=layers,
            banks=tuple(
                tuple(target.banks[layer].name for layer in own)
                for target, own in zip(targets, layers, strict=True)
            ),
            settings=replace(targets[0].settings, engine="local", ray_address=None, workers=None),
            augmented=targets[0].policy is not None,
            threads=threads,
        )

    def open(self) -> list[Target]:
        """Load the bases in the process of a worker.

        Returns
        -------
        list of Target
            That of each part.

        Raises
        ------
        BottleneckError
            The worker has another version or other weights, or does not see the cache.
        """
        if self.version != bottleneck.__version__:
            raise ClusterError(
                f"it has version {bottleneck.__version__} of this package, expected "
                f"{self.version}; install the same version on all nodes"
            )
        with suppress(OSError):  # what is relative is then missed, by its name
            os.chdir(self.folder)
        self._check_cache()
        torch.set_num_threads(self.threads)
        found = []
        for settings, layers, banks in zip(self.bases, self.layers, self.banks, strict=True):
            base = FrozenBase(settings).cut(layers)
            target = find_targets(base, Cache(self.cache), self.settings)[self.augmented]
            own = tuple(target.banks[layer].name for layer in layers)
            if own != banks:
                raise ClusterError(
                    f"{base.model} with weights {base.weights_name!r} has the banks "
                    f"{', '.join(own)} there, expected {', '.join(banks)}; install the same "
                    f"weights and the same versions of all packages on all nodes"
                )
            found.append(target)
        return found

    def _check_cache(self) -> None:
        """Make sure that this is the cache of the process that the worker works for."""
        deadline = time.monotonic() + _SEEN_SECONDS
        while not has_lease(Path(self.cache), self.holder):
            if not Path(self.cache).is_dir() or time.monotonic() > deadline:
                raise ClusterError(
                    f"it does not see the cache {self.cache!r}; give a folder that all nodes "
                    f"share under the same path as `cache`"
                )
            time.sleep(0.1)


def _settings_of(base: FrozenBase, device: str) -> BaseSettings:
    """Return settings with which another computer makes the same base."""
    precision, exact = cast("Any", base.precision), base.adjustments.get("exact_resize")
    return replace(base.settings, precision=precision, exact_resize=exact, device=device)


class Worker:
    """Computes slices of a pass in a process of its own.

    Parameters
    ----------
    job : Job
        What all workers have in common.
    """

    def __init__(self, job: Job) -> None:
        self._job = job

    @cached_property
    def _targets(self) -> list[Target]:
        """That of each part; loaded with the first slice, which is lost if that kills it."""
        return self._job.open()

    def answers(self, content: Mapping[str, Any]) -> Generator[Answer]:
        """Compute a slice and store it.

        Parameters
        ----------
        content : mapping
            See `slice_content`.

        Yields
        ------
        dict
            See `Answer`; an error is the last one.
        """
        try:
            yield from self._answers(content)
        except Exception as error:  # noqa: BLE001 - raised again where it is seen
            yield {"error": _told(error)}

    def _answers(self, content: Mapping[str, Any]) -> Generator[Answer]:
        items = [ImageItem(path, digest) for path, digest in content["items"]]
        parts, number = [], content["number"]
        for target, layers, views in zip(
            self._targets, self._job.layers, content["views"], strict=True
        ):
            own = tuple(item for item in items if item.digest in views)
            numbers = {digest: tuple(each) for digest, each in views.items()}
            parts.append(Part(Task(layers, own, numbers), target))
        if reason := unread_reason(items):
            yield {"number": number, "images": 0, "unread": (socket.gethostname(), reason)}
        done, told = 0, time.monotonic()
        with closing(stored_chunks(parts, items)) as chunks:
            for chunk in chunks:
                done += chunk.images
                if time.monotonic() - told > _TELL_SECONDS:
                    yield {"number": number, "images": done}
                    done, told = 0, time.monotonic()
        outcomes = [asdict(part.outcome) | {"elsewhere": None} for part in parts]
        yield {"number": number, "images": done, "outcomes": outcomes}


def _told(error: Exception) -> tuple[str, str]:
    """Return an error for another process."""
    host = socket.gethostname()
    if isinstance(error, ClusterError):
        return "ClusterError", f"the worker on {host!r} cannot compute: {error}"
    if isinstance(error, CacheError):
        return "CacheError", str(error)
    if isinstance(error, BottleneckError):
        return type(error).__name__, str(error)
    name = type(error).__name__
    return "ClusterError", f"the worker on {host!r} has failed with {name}: {first_line(error)}"

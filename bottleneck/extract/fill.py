"""What the cache lacks: computed and streamed into its banks."""

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field, replace
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from bottleneck.augment import Policy
from bottleneck.cache import Bank, Cache, PartWriter, compression_options, store
from bottleneck.errors import CacheError, DataError, UsageError
from bottleneck.extract.batches import Batch, Progress, feature_batches
from bottleneck.extract.task import (
    Target,
    Task,
    describe_layers,
    find_task,
    missing_views,
    training_items,
)
from bottleneck.images import ImageItem, ImageSet

if TYPE_CHECKING:
    from bottleneck.bases.frozen import FrozenBase

__all__ = [
    "Filling",
    "check_arguments",
    "check_policy",
    "check_views",
    "fill_banks",
    "stored_batches",
]

_DTYPES = ("float16", "float32")
_MOST_VIEWS = 2**16 - 1


@dataclass(frozen=True)
class Filling:
    """What was computed, and where it is.

    Attributes
    ----------
    banks : dict of str to Bank
        Layer to where it is stored.
    computed : int
        Different images that were computed.
    bad : dict of str to str
        Path to reason, of the images that could not be used; once where several are identical.
    bytes_written : int
        Bytes of the features added.
    view_banks : dict of str to Bank
        Layer to where its augmented views are stored; empty where there are none.
    views_computed : int
        Augmented views that were computed.
    """

    banks: dict[str, Bank]
    computed: int
    bad: dict[str, str]
    bytes_written: int
    view_banks: dict[str, Bank] = field(default_factory=dict)
    views_computed: int = 0


def fill_banks(
    images: ImageSet,
    base: "FrozenBase",
    cache: Cache,
    *,
    views: int = 0,
    policy: Policy | None = None,
    dtype: str = "float16",
    compress: str = "none",
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> Filling:
    """Compute the features that the cache lacks and store them; keep neither set nor record.

    Parameters
    ----------
    images, base, cache, views, policy, dtype, compress, batch_size, progress
        As for `extract_features`; whether there can be such a `dtype`, `compress` and `batch_size`
        is for `check_arguments` to say, and of `views` and `policy` for `check_views`.

    Raises
    ------
    MissingExtraError, CacheError, FeatureOverflowError
        As `extract_features` does.
    """
    run = _Run(base, compress, batch_size, progress)
    task = find_task(images, base, cache, dtype)
    plain = run.carry_out(task, "extract")
    banks = dict(task.target.banks)
    if not views:
        return Filling(banks, task.images - len(plain.bad), plain.bad, plain.written)
    bad = {item.digest for item in images.items if item.path in plain.bad}
    good = tuple(item for item in images.items if item.digest not in bad)
    task_of_views = find_task(
        replace(images, items=good), base, cache, dtype, views=views, policy=policy
    )
    augmented = run.carry_out(task_of_views, "views")
    return Filling(
        banks=banks,
        computed=task.images - len(plain.bad),
        bad=plain.bad | augmented.bad,
        bytes_written=plain.written + augmented.written,
        view_banks=dict(task_of_views.target.banks),
        views_computed=augmented.rows,
    )


@dataclass(frozen=True)
class _Done:
    """How many rows were computed, the bytes that they take, and the images that are bad."""

    rows: int
    written: int
    bad: dict[str, str]


@dataclass(frozen=True)
class _Run:
    """How tasks are carried out."""

    base: "FrozenBase"
    compress: str
    batch_size: int | None
    progress: Progress | None

    def carry_out(self, task: Task, stage: str) -> _Done:
        """Compute what a task lacks, and see that all of it is there at the end."""
        target = task.target
        distinct = {bank.name: bank for bank in target.banks.values()}.values()
        done = rows = written = 0
        bad: dict[str, str] = {}
        report = self._reporter(task, stage)
        report(done, written)
        try:
            for layers, items in task.missing.items():
                batches = stored_batches(
                    self.base.cut(layers),
                    items,
                    target,
                    views=task.views[layers],
                    compress=self.compress,
                    batch_size=self.batch_size,
                )
                with closing(batches):  # commits what was appended, whatever ends the work
                    for batch in batches:
                        bad |= {image.path: image.reason for image in batch.rejected}
                        rows += len(batch.items)
                        written += len(batch.items) * self._row_bytes(layers, target.dtype)
                        done += batch.images
                        report(done, written)
        except BaseException:
            with suppress(CacheError):  # what stopped the work may be a full disk
                _refresh(distinct)
            raise
        lost = [
            name for name, each in target.banks.items() if each.size and not each.describes(name)
        ]
        describe_layers(self.base, lost, target)
        _check_held(task, bad)
        _refresh(distinct)
        return _Done(rows, written, bad)

    def _row_bytes(self, layers: Iterable[str], dtype: str) -> int:
        return np.dtype(dtype).itemsize * sum(prod(self.base.shapes[layer]) for layer in layers)

    def _reporter(self, task: Task, stage: str) -> Callable[[int, int], None]:
        found = task.found

        def report(done: int, written: int) -> None:
            if self.progress:
                self.progress(stage, done, task.images, cached=found, bytes_written=written)

        return report


def _check_held(task: Task, bad: Mapping[str, str]) -> None:
    """Raise `CacheError` unless the banks hold all images but the bad ones, given by path."""
    lacking = missing_views(task.items, task.target.banks, task.wanted).values()
    gone = {digest for views in lacking for digest in views}
    gone -= {item.digest for item in task.items if item.path in bad}
    if gone:
        raise CacheError(
            f"{len(gone)} of {len(task.items)} images vanished from the cache while it was being "
            f"filled, as other commands removed parts; run the command again"
        )


def _refresh(banks: Iterable[Bank]) -> None:
    """Have each ``features.h5`` show the parts that are there."""
    for bank in banks:
        if bank.view_file_is_old:
            bank.rebuild_view_file()


def check_arguments(dtype: str, compress: str, batch_size: int | None) -> None:
    """Raise an error unless features can be stored so, and batches be of that size."""
    compression_options(compress, (1, 1), np.dtype(np.float16))
    if dtype not in _DTYPES:
        raise UsageError(f"no dtype {dtype!r}; expected one of {', '.join(_DTYPES)}")
    if batch_size is not None and (not isinstance(batch_size, int) or batch_size < 1):
        raise UsageError(f"a batch of {batch_size!r} images cannot be; give a number from 1 on")


def check_policy(views: int, policy: Policy | None) -> None:
    """Raise a `UsageError` unless there can be so many views, and a policy that makes them."""
    if not isinstance(views, int) or not 0 <= views <= _MOST_VIEWS:
        raise UsageError(f"{views!r} views cannot be; give a number from 0 to {_MOST_VIEWS}")
    if not views and policy is not None and policy.steps:
        raise UsageError(
            f"augmentation {policy.name!r} was given, but no number of views; give one, such as 8"
        )
    if views and (policy is None or not policy.steps):
        raise UsageError(
            f"{views} views without an augmentation would be {views} copies of the image; name "
            f"one with --augment, such as standard"
        )


def check_views(images: ImageSet, views: int, policy: Policy | None) -> None:
    """Raise an error unless there can be so many views of a set's training images.

    Raises
    ------
    UsageError
        As `check_policy` does.
    DataError
        There are no training images.
    """
    check_policy(views, policy)
    if views and not training_items(images):
        raise DataError(
            f"image set {images.name!r} has no train images, and only these have views; add some, "
            f"or leave --views out"
        )


def stored_batches(
    base: "FrozenBase",
    items: Sequence[ImageItem],
    target: Target,
    *,
    views: Mapping[str, Sequence[int]],
    compress: str,
    batch_size: int | None,
) -> Generator[Batch]:
    """Compute the base's layers of some images; yield each batch once it is appended."""
    layers_of: dict[str, list[str]] = {}
    for layer in base.layers:
        layers_of.setdefault(target.banks[layer].name, []).append(layer)
    batches = feature_batches(base, items, batch_size=batch_size, policy=target.policy, views=views)
    with ExitStack() as stack:
        writers: dict[str, PartWriter] = {}
        for batch in batches:
            if batch.items and not writers:
                for layer, values in batch.features.items():
                    store(values, target.dtype, layer)  # a bank is made only for what can be stored
                describe_layers(base, base.layers, target)
                for name, (first, *_) in layers_of.items():
                    bank = target.banks[first]
                    writer = bank.writer(target.dtype, share=len(layers_of), compress=compress)
                    writers[name] = stack.enter_context(writer)
            if batch.items:
                digests = [item.digest for item in batch.items]
                for name, layers in layers_of.items():
                    own = {layer: batch.features[layer] for layer in layers}
                    writers[name].append(digests, own, views=np.array(batch.views))
            yield batch

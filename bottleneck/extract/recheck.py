"""Rows of the cache against what the base computes of their images now."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache as remembered
from pathlib import Path
from typing import Any

import numpy as np

from bottleneck.augment import Policy
from bottleneck.bases.frozen import FrozenBase
from bottleneck.cache import Bank, Cache, Damage, set_aside
from bottleneck.errors import BottleneckError, CacheError
from bottleneck.extract.compute import Batch, Progress, feature_batches, reference_features
from bottleneck.extract.plan import Target, Task
from bottleneck.extract.store import check_base
from bottleneck.images import ImageItem, ImageSet
from bottleneck.records import Extraction

__all__ = ["Recheck", "recheck_banks"]

_TOLERANCES = {"fp32": 2e-3, "fp16": 1e-2, "bf16": 5e-2}
"""Of the largest value in a row: two roundings to float16, and another order of summation."""


@dataclass(frozen=True)
class Recheck:
    """How a sample of a bank's rows compares with what is computed now.

    Attributes
    ----------
    bank : str
        Its name.
    rows : int
        Rows computed again, one for each image and layer.
    difference : float or None
        The largest difference, in parts of the largest value in its row.
    damage : list of Damage
        Parts with a row that differs by more than rounding; they have been set aside.
    skipped : str or None
        Why layers could not be checked.
    """

    bank: str
    rows: int
    difference: float | None
    damage: list[Damage]
    skipped: str | None


def recheck_banks(
    cache: Cache,
    banks: Sequence[Bank],
    *,
    images: int = 16,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[Recheck]:
    """Compute some rows of banks again, from the images where their extractions found them.

    A base is loaded once for all banks that it serves. A part with a wrong row is moved to
    ``quarantine/``, unless the base does not compute the canary either as it did, so that it is not
    the part that is wrong.

    Parameters
    ----------
    cache : Cache
        Where the extractions are recorded.
    banks : sequence of Bank
        What to check.
    images : int
        How many of each extraction, drawn at random.
    seed : int
        Of the draw.
    progress : callable, optional
        Called with the name of a bank, or of the first of several, the images done and those to do.

    Returns
    -------
    list of Recheck
        One for each of `banks`.

    Raises
    ------
    CacheError
        A part or a record is damaged.
    """
    checks = [_Check(bank) for bank in banks]
    waiting = _alike(_samples(cache, checks, images, seed), lambda sample: sample.arguments)
    for group in waiting:
        layers = [layer for sample in group for layer in sample.task.layers]
        try:
            base = FrozenBase(layers=layers, **group[0].arguments)
        except BottleneckError as error:
            if len(group) > 1:  # one may spoil it for the others
                waiting += [[sample] for sample in group]
            else:
                group[0].check.reasons.append(str(error))
            continue
        for same in _alike(
            group, lambda each: (each.target.policy, each.task.items, each.task.views)
        ):
            _compare(base, same, progress)
    return [check.result(cache) for check in checks]


@dataclass
class _Check:
    """What has been found of a bank so far."""

    bank: Bank
    rows: int = 0
    difference: float | None = None
    wrong: set[Path] = field(default_factory=set)
    reasons: list[str] = field(default_factory=list)

    def add(self, layer: str, batch: Batch, tolerance: float) -> None:
        """Compare a layer's rows with those that were just computed."""
        digests, views = np.array([item.digest for item in batch.items]), np.array(batch.views)
        gaps = _gaps(self.bank.read(layer, digests.tolist(), view=views), batch.features[layer])
        self.rows += len(gaps)
        self.difference = max([self.difference or 0.0, *gaps])
        bad = np.array(gaps) > tolerance
        self.wrong.update(self.bank.parts_with(layer, digests[bad].tolist(), view=views[bad]))

    def result(self, cache: Cache) -> Recheck:
        """Set wrong parts aside, and tell all."""
        reason = "rows differ from what the base computes of their images now"
        damage = [set_aside(cache, path, reason) for path in sorted(self.wrong)]
        if damage:
            self.bank.rebuild_view_file()
        skipped = "; ".join(self.reasons) or None
        return Recheck(self.bank.name, self.rows, self.difference, damage, skipped)


@dataclass(frozen=True)
class _Sample:
    """Some rows of a bank to compute again.

    Attributes
    ----------
    check : _Check
        Where it is noted what is found.
    task : Task
        Layers, images and a view of each.
    target : Target
        Where the rows are.
    arguments : dict
        Of the `FrozenBase` that computed them, but for its layers.
    """

    check: _Check
    task: Task
    target: Target
    arguments: dict[str, Any]


def _samples(cache: Cache, checks: Sequence[_Check], images: int, seed: int) -> Iterator[_Sample]:
    """Draw images of each bank, for each set of layers that extractions used of it."""
    read_set = remembered(lambda name: ImageSet.read_csv(cache.set_file(name)).items)
    runs = cache.runs(damaged_too=False)
    for check in checks:
        name = check.bank.name
        groups: dict[tuple[str, ...], list[Extraction]] = {}
        for run in runs:
            used = [each for each in run.layers if name in {each.bank, each.view_bank}]
            if used:
                groups.setdefault(tuple(each.layer for each in used), []).append(run)
        for layers, own in groups.items():
            try:
                items = [i for s in sorted({run.image_set for run in own}) for i in read_set(s)]
                yield _sample(check, _draw(check.bank, layers, items, images, seed), own[-1])
            except BottleneckError as error:
                check.reasons.append(str(error))


def _sample(check: _Check, task: Task, run: Extraction) -> _Sample:
    """Return what computes a task as a run did."""
    info = check.bank.info
    policy = None
    if info.policy is not None and info.augmentation is not None:
        policy = Policy.from_dict(info.policy, info.augmentation)
    target = Target(dict.fromkeys(task.layers, check.bank), run.dtype, policy)
    arguments = {
        "model": run.model,
        "weights": run.weights,
        "pool": next((each.pool for each in run.layers if each.pool != "none"), "none"),
        "precision": run.precision or "auto",  # imported features do not tell
        **run.adjustments,
    }
    return _Sample(check, task, target, arguments)


def _draw(
    bank: Bank, layers: tuple[str, ...], items: Iterable[ImageItem], count: int, seed: int
) -> Task:
    """Draw so many images whose files have not changed, and for each a view that is stored."""
    views: dict[str, list[int]] = {}
    for digest, view in sorted(set.intersection(*(bank.known(layer) for layer in layers))):
        views.setdefault(digest, []).append(view)
    found = {i.digest: i for i in items if i.digest in views and Path(i.path).is_file()}
    there = list(found.values())
    generator = np.random.default_rng(seed)
    drawn: list[ImageItem] = []
    for place in generator.permutation(len(there)):
        with Path(there[place].path).open("rb") as stream:
            if hashlib.file_digest(stream, "sha256").hexdigest() == there[place].digest:
                drawn.append(there[place])
        if len(drawn) == count:
            break
    if not drawn:
        raise CacheError(
            "no image is where its extraction found it, and as it was; run the command from the "
            "folder of that extraction"
        )
    one: dict[str, tuple[int, ...]] = {
        item.digest: (int(generator.choice(views[item.digest])),) for item in drawn
    }
    return Task(layers, tuple(drawn), one)


def _alike(samples: Iterable[_Sample], key: Callable[[_Sample], object]) -> list[list[_Sample]]:
    """Return those samples together that have the same key: plain data, known by its text."""
    groups: dict[str, list[_Sample]] = {}
    for sample in samples:
        groups.setdefault(repr(key(sample)), []).append(sample)
    return list(groups.values())


def _compare(base: FrozenBase, samples: Sequence[_Sample], progress: Progress | None) -> None:
    """Compute samples of the same images again, and compare."""
    task, policy = samples[0].task, samples[0].target.policy
    base = base.cut(layer for sample in samples for layer in sample.task.layers)
    canary = reference_features(base, policy)
    sound = []
    for sample in samples:
        try:
            check_base(base, sample.target, canary)
            sound.append(sample)
        except CacheError as error:
            sample.check.reasons.append(str(error))
    others = f" and {len(samples) - 1} more" if samples[1:] else ""
    done, stage = 0, f"{samples[0].check.bank.name}{others}"
    report = progress or (lambda *_: None)
    report(stage, done, len(task.items))
    for batch in feature_batches(base, task.items, policy=policy, views=task.views):
        for sample in sound if batch.items else ():
            for layer in sample.task.layers:
                sample.check.add(layer, batch, _TOLERANCES[base.precision])
        done += batch.images
        report(stage, done, len(task.items))


def _gaps(stored: np.ndarray, computed: np.ndarray) -> list[float]:
    """Return for each row the largest difference, in parts of the row's largest value.

    What the stored type's smallest number makes of a difference does not count.
    """
    rows = computed.reshape(len(computed), -1)
    found = np.abs(stored.reshape(len(stored), -1).astype(np.float32) - rows).max(axis=1)
    found = np.maximum(found - 2 * float(np.finfo(stored.dtype).smallest_subnormal), 0)
    gaps: list[float] = (found / (np.abs(rows).max(axis=1) + np.finfo(np.float32).tiny)).tolist()
    return gaps

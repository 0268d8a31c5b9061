"""Compare rows of the cache with newly computed ones."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache as remembered
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from bottleneck.arguments import made
from bottleneck.augment import Policy
from bottleneck.bases.frozen import FrozenBase
from bottleneck.cache import Bank, Cache, Damage, set_aside
from bottleneck.errors import BadImageError, BottleneckError, CacheError
from bottleneck.extract.compute import Progress, feature_batches
from bottleneck.extract.decoding import reference_features
from bottleneck.extract.plan import Task
from bottleneck.extract.store import Target
from bottleneck.images import ImageItem, ImageSet, read_file
from bottleneck.records import Extraction
from bottleneck.settings import StoreSettings

__all__ = ["Recheck", "recheck_banks"]

_TOLERANCES = {"fp32": 2e-3, "fp16": 1e-2, "bf16": 5e-2}
"""Relative to the largest value of a row, for two roundings to float16 and summation order."""


@dataclass
class Recheck:
    """The comparison of a sample of a bank's rows with newly computed ones.

    Attributes
    ----------
    bank : str
        Name of the bank.
    rows : int
        Number of recomputed rows, one for each image and layer.
    difference : float or None
        The largest difference, relative to the largest value in its row.
    wrong : set of Path
        Parts with a row that differs by more than rounding.
    damage : list of Damage
        The same parts, after they were moved to ``quarantine/``.
    skipped : str or None
        Why layers could not be checked.
    """

    bank: str
    rows: int = 0
    difference: float | None = None
    wrong: set[Path] = field(default_factory=set)
    damage: list[Damage] = field(default_factory=list)
    skipped: str | None = None

    def skip(self, reason: object) -> None:
        """Record why some layers could not be checked.

        Parameters
        ----------
        reason : object
            The reason as an error or text; several are joined by semicolons.
        """
        self.skipped = "; ".join(filter(None, [self.skipped, str(reason)]))


def recheck_banks(
    cache: Cache,
    banks: Sequence[Bank],
    *,
    images: int = 16,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[Recheck]:
    """Recompute some rows of banks, from the image files that were extracted.

    A base is loaded once for all banks that it serves. A part with a wrong row is moved to
    ``quarantine/``, unless the base does not reproduce the canary either, which means that the base
    has changed and the part may be right.

    Parameters
    ----------
    cache : Cache
        The cache, with its records of extractions.
    banks : sequence of Bank
        Banks to check.
    images : int
        Number of images of each extraction, drawn at random.
    seed : int
        Seed of the draw.
    progress : callable, optional
        Called with the name of a bank, or of the first of several, the images done and their total.

    Returns
    -------
    list of Recheck
        A result for each bank.

    Raises
    ------
    CacheError
        A part or a record is damaged.
    """
    checks = [Recheck(bank.name) for bank in banks]
    samples = _plan(cache, zip(banks, checks, strict=True), images, seed)
    waiting = _alike(samples, lambda sample: sample.arguments)
    for group in waiting:
        layers = [layer for sample in group for layer in sample.task.layers]
        try:
            base = FrozenBase(layers=layers, **group[0].arguments)
        except BottleneckError as error:
            if len(group) > 1:  # one may spoil it for the others
                waiting += [[sample] for sample in group]
            else:
                group[0].check.skip(error)
            continue
        for same in _alike(group, lambda one: (one.policy, one.task.items, one.task.views)):
            _compare(base, same, progress or (lambda *_: None))
    for bank, check in zip(banks, checks, strict=True):
        if check.wrong:
            reason = "rows differ from those computed now from their images"
            check.damage = [set_aside(cache, path, reason) for path in sorted(check.wrong)]
            bank.rebuild_view_file()
    return checks


@dataclass(frozen=True)
class _Sample:
    """Rows of a bank to recompute: the result to fill in, and an extraction that stored them."""

    bank: Bank
    check: Recheck
    run: Extraction
    policy: Policy | None
    task: Task

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments of the extraction's `FrozenBase`, without its layers."""
        run = self.run
        return {
            "model": run.model,
            "weights": run.weights,
            "pool": next((each.pool for each in run.layers if each.pool != "none"), "none"),
            "precision": run.precision,
            **run.adjustments,
        }


def _plan(
    cache: Cache, banks: Iterable[tuple[Bank, Recheck]], images: int, seed: int
) -> Iterator[_Sample]:
    """Draw images of each bank, for each set of layers in its extractions."""
    read_set = remembered(lambda name: ImageSet.read_csv(cache.set_file(name)).items)
    runs = cache.runs(damaged_too=False)
    for bank, check in banks:
        groups: dict[tuple[str, ...], list[Extraction]] = {}
        for run in runs:
            used = [each for each in run.layers if bank.name in {each.bank, each.view_bank}]
            if used:
                groups.setdefault(tuple(each.layer for each in used), []).append(run)
        if not groups:
            check.skip(
                "no extraction of its features is recorded, as after 'finetune --from-cache'"
            )
        for layers, own in groups.items():
            if own[-1].is_imported:
                check.skip("they were imported, and no network of theirs is known")
                continue
            try:
                items = [i for s in sorted({run.image_set for run in own}) for i in read_set(s)]
                task = _draw(bank, layers, items, images, seed)
                yield _Sample(bank, check, own[-1], _policy_of(bank), task)
            except BottleneckError as error:
                check.skip(error)


def _policy_of(bank: Bank) -> Policy | None:
    """Return the policy of a bank's views."""
    info = bank.info
    if info.policy is None or info.augmentation is None:
        return None
    return Policy.from_dict(info.policy, info.augmentation)


def _draw(
    bank: Bank, layers: tuple[str, ...], items: Iterable[ImageItem], count: int, seed: int
) -> Task:
    """Draw images whose files have not changed, and for each a stored view."""
    views: dict[str, list[int]] = {}
    for digest, view in sorted(set.intersection(*(bank.known(layer) for layer in layers))):
        views.setdefault(digest, []).append(view)
    there = list({item.digest: item for item in items if item.digest in views}.values())
    generator = np.random.default_rng(seed)
    shuffled = (there[place] for place in generator.permutation(len(there)))
    drawn = tuple(islice(filter(_is_unchanged, shuffled), count))
    if not drawn:
        raise CacheError(
            "none of the images is unchanged at the path where it was extracted; run the command "
            "from the folder in which they were extracted"
        )
    chosen = {item.digest: int(generator.choice(views[item.digest])) for item in drawn}
    return Task(layers, drawn, {digest: (view,) for digest, view in chosen.items()})


def _is_unchanged(item: ImageItem) -> bool:
    try:
        read_file(item)
    except BadImageError:
        return False
    return True


def _alike(samples: Iterable[_Sample], key: Callable[[_Sample], object]) -> list[list[_Sample]]:
    """Group samples by a key, which is plain data and compared by its text."""
    groups: dict[str, list[_Sample]] = {}
    for sample in samples:
        groups.setdefault(repr(key(sample)), []).append(sample)
    return list(groups.values())


def _compare(base: FrozenBase, samples: Sequence[_Sample], report: Progress) -> None:
    """Recompute samples of the same images, and compare."""
    task, policy = samples[0].task, samples[0].policy
    base = base.cut(layer for sample in samples for layer in sample.task.layers)
    canary = reference_features(base, policy)
    sound = []
    for sample in samples:
        layers, bank = sample.task.layers, sample.bank
        settings = made(StoreSettings, None, {"dtype": sample.run.dtype})
        try:
            Target(base, dict.fromkeys(layers, bank), canary, settings, policy)
            sound += [(bank, sample.check, layer) for layer in layers]
        except CacheError as error:
            sample.check.skip(error)
    others = f" and {len(samples) - 1} more" if samples[1:] else ""
    done, stage = 0, f"{samples[0].bank.name}{others}"
    report(stage, done, len(task.items))
    for batch in feature_batches(base, task.items, policy=policy, views=task.views):
        digests, views = np.array([item.digest for item in batch.items]), np.array(batch.views)
        for bank, check, layer in sound if batch.items else ():
            stored = bank.read(layer, digests.tolist(), view=views)
            gaps = _gaps(stored, batch.features[layer])
            bad = gaps > _TOLERANCES[base.precision]
            check.rows += len(gaps)
            check.difference = max(check.difference or 0.0, float(gaps.max()))
            check.wrong |= {*bank.parts_with(layer, digests[bad].tolist(), view=views[bad])}
        done += batch.images
        report(stage, done, len(task.items))


def _gaps(stored: np.ndarray, computed: np.ndarray) -> np.ndarray:
    """Return for each row the largest difference, relative to the row's largest value.

    Differences below the resolution of the stored type are ignored.
    """
    rows = computed.reshape(len(computed), -1)
    found = np.abs(stored.reshape(len(stored), -1).astype(np.float32) - rows).max(axis=1)
    found = np.maximum(found - 2 * float(np.finfo(stored.dtype).smallest_subnormal), 0)
    gaps: np.ndarray = found / (np.abs(rows).max(axis=1) + np.finfo(np.float32).tiny)
    return gaps

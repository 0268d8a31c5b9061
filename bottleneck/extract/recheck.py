"""Rows of the cache against what the base computes of their images now."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bottleneck.bases import FrozenBase
from bottleneck.cache import Bank, Cache, Damage, set_aside
from bottleneck.errors import BottleneckError, CacheError
from bottleneck.extract.batches import Progress, feature_batches
from bottleneck.extract.task import check_banks
from bottleneck.images import ImageItem, ImageSet

__all__ = ["Recheck", "recheck_bank"]

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


def recheck_bank(
    bank: Bank, cache: Cache, *, images: int = 16, seed: int = 0, progress: Progress | None = None
) -> Recheck:
    """Compute some of a bank's rows again, from the images where their extraction found them.

    A part with a wrong row is moved to ``quarantine/``, unless the base does not compute the
    canary either as it did, so that it is not the part that is wrong.

    Parameters
    ----------
    bank, cache : Bank, Cache
        What to check, and where its extractions are recorded.
    images : int
        How many, drawn at random.
    seed : int
        Of the draw.
    progress : callable, optional
        Called with the bank's name, the images done and the images to do.

    Raises
    ------
    CacheError
        A part or a record is damaged.
    """
    rows, difference = 0, None
    wrong: set[Path] = set()
    reasons = []
    for runs in _runs_by_layers(bank, cache):
        try:
            base = _base(runs[-1], bank.name)
            check_banks(base, dict.fromkeys(base.layers, bank), runs[-1]["dtype"], base.canary())
            sets = {run["image_set"] for run in runs}
            items = _draw(_at_hand(bank, cache, sets, base.layers), images, seed)
        except BottleneckError as error:
            reasons.append(str(error))
            continue
        done, tolerance = 0, _TOLERANCES[base.precision]
        if progress:
            progress(bank.name, 0, len(items))
        for batch in feature_batches(base, items):
            digests = [item.digest for item in batch.items]
            for layer, values in batch.features.items():
                gaps = _gaps(bank.read(layer, digests), values)
                rows += len(gaps)
                difference = max([difference or 0.0, *gaps])
                bad = [digest for digest, gap in zip(digests, gaps, strict=True) if gap > tolerance]
                wrong.update(bank.parts_with(layer, bad))
            done += len(digests)
            if progress:
                progress(bank.name, done, len(items))
    reason = "rows differ from what the base computes of their images now"
    damage = [set_aside(cache, path, reason) for path in sorted(wrong)]
    if damage:
        bank.rebuild_view_file()
    return Recheck(bank.name, rows, difference, damage, "; ".join(reasons) or None)


def _runs_by_layers(bank: Bank, cache: Cache) -> list[list[dict[str, Any]]]:
    """Return the runs that used a bank, together where they used the same layers of it."""
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for run in cache.runs(damaged_too=False):
        layers = tuple(each["layer"] for each in run["layers"] if each["bank"] == bank.name)
        if layers:
            groups.setdefault(layers, []).append(run)
    return list(groups.values())


def _base(run: dict[str, Any], bank: str) -> FrozenBase:
    """Return the base that computed a run's layers of a bank."""
    layers = [each for each in run["layers"] if each["bank"] == bank]
    base = FrozenBase(
        run["model"],
        [each["layer"] for each in layers],
        weights=run["weights"],
        pool=layers[0]["pool"],
        precision=run["precision"] or "auto",  # imported features do not tell
        **run["adjustments"],
    )
    for each in layers:
        if base.fingerprint(each["layer"], run["dtype"]) != each["fingerprint"]:
            raise CacheError(
                f"the base of {bank} is not the one that computed it any more; see to the weights "
                f"{run['weights']!r}"
            )
    return base


def _at_hand(
    bank: Bank, cache: Cache, image_sets: Iterable[str], layers: Sequence[str]
) -> list[ImageItem]:
    """Return the different images of some sets that the bank holds, and whose files are there."""
    known = set.intersection(*(bank.known(layer) for layer in layers))
    items = [
        item
        for name in sorted(image_sets)
        for item in ImageSet.read_csv(cache.set_file(name)).items
        if (item.digest, 0) in known and Path(item.path).is_file()
    ]
    return list({item.digest: item for item in items}.values())


def _draw(items: Sequence[ImageItem], count: int, seed: int) -> list[ImageItem]:
    """Return so many images at random, of those whose files have not changed."""
    drawn: list[ImageItem] = []
    for place in np.random.default_rng(seed).permutation(len(items)):
        with Path(items[place].path).open("rb") as stream:
            if hashlib.file_digest(stream, "sha256").hexdigest() == items[place].digest:
                drawn.append(items[place])
        if len(drawn) == count:
            break
    if not drawn:
        raise CacheError(
            "no image is where its extraction found it, and as it was; run the command from the "
            "folder of that extraction"
        )
    return drawn


def _gaps(stored: np.ndarray, computed: np.ndarray) -> list[float]:
    """Return for each row the largest difference, in parts of the row's largest value.

    What the stored type's smallest number makes of a difference does not count.
    """
    rows = computed.reshape(len(computed), -1)
    found = np.abs(stored.reshape(len(stored), -1).astype(np.float32) - rows).max(axis=1)
    found = np.maximum(found - 2 * float(np.finfo(stored.dtype).smallest_subnormal), 0)
    gaps: list[float] = (found / (np.abs(rows).max(axis=1) + np.finfo(np.float32).tiny)).tolist()
    return gaps

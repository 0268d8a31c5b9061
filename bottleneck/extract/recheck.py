"""Rows of the cache against what the base computes of their images now."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bottleneck.bases import FrozenBase
from bottleneck.cache import Bank, Cache, Damage
from bottleneck.errors import BottleneckError, CacheError
from bottleneck.extract.batches import Progress, feature_batches
from bottleneck.extract.run import check_banks
from bottleneck.images import ImageItem, ImageSet

__all__ = ["Recheck", "recheck_bank"]

_TOLERANCE = 2e-3
"""Of the largest value in a row: two roundings to float16."""


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
    for run in _last_runs(bank, cache):
        layers = [each for each in run["layers"] if each["bank"] == bank.name]
        try:
            base = _base(run, layers)
            check_banks(base, dict.fromkeys(base.layers, bank), run["dtype"], base.canary())
            found = _at_hand(bank, cache, run["image_set"], base.layers)
        except BottleneckError as error:
            reasons.append(str(error))
            continue
        chosen = np.random.default_rng(seed).permutation(len(found))[:images]
        items = [found[place] for place in sorted(chosen)]
        done = 0
        for batch in feature_batches(base, items):
            digests = [item.digest for item in batch.items]
            for layer, values in batch.features.items():
                gaps = _gaps(bank.read(layer, digests), values)
                rows += len(gaps)
                difference = max([difference or 0.0, *gaps])
                bad = [
                    digest for digest, gap in zip(digests, gaps, strict=True) if gap > _TOLERANCE
                ]
                wrong.update(bank.parts_with(layer, bad))
            done += len(digests)
            if progress:
                progress(bank.name, done, len(items))
    reason = "rows differ from what the base computes of their images now"
    damage = [
        Damage(str(path), str(cache.set_aside(path, reason)), reason) for path in sorted(wrong)
    ]
    if damage:
        bank.rebuild_view_file()
    return Recheck(bank.name, rows, difference, damage, "; ".join(reasons) or None)


def _last_runs(bank: Bank, cache: Cache) -> list[dict[str, Any]]:
    """Return the last run of each set of layers of a bank."""
    last = {
        tuple(each["layer"] for each in run["layers"] if each["bank"] == bank.name): run
        for run in cache.runs()
    }
    return [run for layers, run in last.items() if layers]


def _base(run: dict[str, Any], layers: Sequence[dict[str, Any]]) -> FrozenBase:
    base = FrozenBase(
        run["model"],
        [each["layer"] for each in layers],
        weights=run["weights"],
        pool=layers[0]["pool"],
        **run["adjustments"],
    )
    for each in layers:
        if base.fingerprint(each["layer"], run["dtype"]) != each["fingerprint"]:
            raise CacheError(
                f"the base of {each['bank']} is not the one that computed it any more; see to the "
                f"weights {run['weights']!r}"
            )
    return base


def _at_hand(bank: Bank, cache: Cache, image_set: str, layers: Sequence[str]) -> list[ImageItem]:
    """Return the different images of a set that the bank holds, and that are where they were."""
    known = set.intersection(*(bank.known(layer) for layer in layers))
    items = ImageSet.read_csv(cache.set_file(image_set)).items
    distinct = {item.digest: item for item in items if (item.digest, 0) in known}.values()
    there = [item for item in distinct if Path(item.path).is_file()]
    if not there:
        raise CacheError(
            f"no image of {image_set!r} is where its extraction found it; run the command from the "
            f"folder of that extraction"
        )
    return there


def _gaps(stored: np.ndarray, computed: np.ndarray) -> list[float]:
    """Return for each row the largest difference, in parts of the row's largest value."""
    rows = computed.reshape(len(computed), -1)
    gaps = np.abs(stored.reshape(len(stored), -1).astype(np.float32) - rows).max(axis=1)
    largest = np.abs(rows).max(axis=1) + np.finfo(np.float32).tiny
    found: list[float] = (gaps / largest).tolist()
    return found

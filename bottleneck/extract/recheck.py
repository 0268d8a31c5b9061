"""Rows of the cache against what the base computes of their images now."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bottleneck.augment import Policy
from bottleneck.cache import Bank, Cache, Damage, set_aside
from bottleneck.errors import BottleneckError, CacheError
from bottleneck.extract.batches import Progress, feature_batches
from bottleneck.extract.task import find_target
from bottleneck.images import ImageItem, ImageSet

if TYPE_CHECKING:
    from bottleneck.bases.frozen import FrozenBase

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
            policy = _policy(bank)
            base = _base(runs[-1], bank, policy)
            find_target(base, cache, runs[-1]["dtype"], policy)  # says so where it differs
            sets = {run["image_set"] for run in runs}
            items, views = _draw(*_at_hand(bank, cache, sets, base.layers), images, seed)
        except BottleneckError as error:
            reasons.append(str(error))
            continue
        done, tolerance = 0, _TOLERANCES[base.precision]
        if progress:
            progress(bank.name, 0, len(items))
        for batch in feature_batches(base, items, policy=policy, views=views):
            digests = np.array([item.digest for item in batch.items])
            numbers = np.array(batch.views)
            for layer, values in batch.features.items():
                gaps = _gaps(bank.read(layer, digests.tolist(), view=numbers), values)
                rows += len(gaps)
                difference = max([difference or 0.0, *gaps])
                bad = np.array(gaps) > tolerance
                wrong.update(bank.parts_with(layer, digests[bad].tolist(), view=numbers[bad]))
            done += batch.images
            if progress:
                progress(bank.name, done, len(items))
    reason = "rows differ from what the base computes of their images now"
    damage = [set_aside(cache, path, reason) for path in sorted(wrong)]
    if damage:
        bank.rebuild_view_file()
    return Recheck(bank.name, rows, difference, damage, "; ".join(reasons) or None)


def _layers_in(bank: Bank, run: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what a run says of the layers that it used of a bank."""
    return [each for each in run["layers"] if bank.name in {each["bank"], each.get("view_bank")}]


def _runs_by_layers(bank: Bank, cache: Cache) -> list[list[dict[str, Any]]]:
    """Return the runs that used a bank, together where they used the same layers of it."""
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for run in cache.runs(damaged_too=False):
        layers = tuple(each["layer"] for each in _layers_in(bank, run))
        if layers:
            groups.setdefault(layers, []).append(run)
    return list(groups.values())


def _policy(bank: Bank) -> Policy | None:
    """Return how the views in a bank were made; None where they are plain images."""
    info = bank.info
    return Policy.from_dict(info["policy"], info["augmentation"]) if "policy" in info else None


def _base(run: dict[str, Any], bank: Bank, policy: Policy | None) -> "FrozenBase":
    """Return the base that computed a run's layers of a bank."""
    layers = _layers_in(bank, run)
    from bottleneck.bases.frozen import FrozenBase

    base = FrozenBase(
        run["model"],
        [each["layer"] for each in layers],
        weights=run["weights"],
        pool=layers[0]["pool"],
        precision=run["precision"] or "auto",  # imported features do not tell
        **run["adjustments"],
    )
    key, augmentation = "fingerprint", None
    if policy:
        key, augmentation = "view_fingerprint", policy.as_dict()
    for each in layers:
        if base.fingerprint(each["layer"], run["dtype"], augmentation) != each[key]:
            raise CacheError(
                f"the base of {bank.name} is not the one that computed it any more; see to the "
                f"weights {run['weights']!r}"
            )
    return base


def _at_hand(
    bank: Bank, cache: Cache, image_sets: Iterable[str], layers: Sequence[str]
) -> tuple[list[ImageItem], dict[str, list[int]]]:
    """Return the different images of some sets whose files are there, and views by digest."""
    views: dict[str, list[int]] = {}
    for digest, view in sorted(set.intersection(*(bank.known(layer) for layer in layers))):
        views.setdefault(digest, []).append(view)
    items = [
        item
        for name in sorted(image_sets)
        for item in ImageSet.read_csv(cache.set_file(name)).items
        if item.digest in views and Path(item.path).is_file()
    ]
    return list({item.digest: item for item in items}.values()), views


def _draw(
    items: Sequence[ImageItem], views: Mapping[str, Sequence[int]], count: int, seed: int
) -> tuple[list[ImageItem], dict[str, list[int]]]:
    """Return so many images at random, of files that have not changed, and a view of each."""
    generator = np.random.default_rng(seed)
    drawn: list[ImageItem] = []
    for place in generator.permutation(len(items)):
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
    return drawn, {item.digest: [int(generator.choice(views[item.digest]))] for item in drawn}


def _gaps(stored: np.ndarray, computed: np.ndarray) -> list[float]:
    """Return for each row the largest difference, in parts of the row's largest value.

    What the stored type's smallest number makes of a difference does not count.
    """
    rows = computed.reshape(len(computed), -1)
    found = np.abs(stored.reshape(len(stored), -1).astype(np.float32) - rows).max(axis=1)
    found = np.maximum(found - 2 * float(np.finfo(stored.dtype).smallest_subnormal), 0)
    gaps: list[float] = (found / (np.abs(rows).max(axis=1) + np.finfo(np.float32).tiny)).tolist()
    return gaps

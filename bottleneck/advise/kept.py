"""Advice that is kept in the cache folder, for the next call on the same features."""

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import bottleneck
from bottleneck.advise.advice import Advice
from bottleneck.cache import Cache
from bottleneck.errors import BottleneckError
from bottleneck.files import sha256_of
from bottleneck.records import FeatureSource, read_record, write_record
from bottleneck.settings import AdviseSettings

__all__ = ["keep_advice", "read_advice"]


def read_advice(
    cache: Cache, selections: Sequence[FeatureSource], settings: AdviseSettings
) -> Advice | None:
    """Return what `keep_advice` kept for the same features, labels, settings and version.

    Parameters
    ----------
    cache, selections, settings : Cache, sequence of FeatureSource, AdviseSettings
        As for `bottleneck.advise_on`.

    Returns
    -------
    Advice or None
        None if nothing was kept, something has changed, or the file is damaged.
    """
    with suppress(BottleneckError):
        return read_record(_file(cache, selections, settings), Advice)
    return None


def keep_advice(
    cache: Cache, selections: Sequence[FeatureSource], settings: AdviseSettings, advice: Advice
) -> None:
    """Keep advice for `read_advice`, unless the cache folder can only be read.

    Parameters
    ----------
    cache, selections, settings : Cache, sequence of FeatureSource, AdviseSettings
        As for `bottleneck.advise_on`.
    advice : Advice
        Its result.
    """
    with suppress(OSError, ValueError):  # or a number is not finite
        write_record(_file(cache, selections, settings), advice)


def _file(cache: Cache, selections: Sequence[FeatureSource], settings: AdviseSettings) -> Path:
    """Return a file named by all that the advice depends on; parts are never changed."""
    banks = {bank.path for each in selections for bank in cache.banks_of(each)}
    facts = {
        "version": bottleneck.__version__,
        "settings": asdict(settings),
        "layers": [each.as_dict() | {"typed": each.typed} for each in selections],
        "sets": {each.image_set: sha256_of(cache.set_file(each.image_set)) for each in selections},
        "parts": sorted(str(part) for path in banks for part in (path / "parts").glob("*.h5")),
    }
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    return cache.root / "advice" / f"{key}.json"

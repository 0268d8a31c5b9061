"""Advice that is kept in the cache folder, for the next call on the same features."""

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

import bottleneck
from bottleneck.advise.advice import Advice
from bottleneck.cache import Cache
from bottleneck.errors import BottleneckError
from bottleneck.files import sha256_of
from bottleneck.records import FeatureSource, read_record, write_record
from bottleneck.records.record import CacheRecord
from bottleneck.settings import AdviseSettings

__all__ = ["keep_advice", "read_advice"]


@dataclass(frozen=True, kw_only=True)
class KeptAdvice(CacheRecord):
    """A file in ``cache/advice/``.

    Attributes
    ----------
    key : str
        Digest of all that the advice depends on, see `_key`.
    advice : Advice
        The advice.
    """

    SCHEMA: ClassVar[int] = 1

    key: str
    advice: Advice


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
    key = _key(cache, selections, settings)
    with suppress(BottleneckError):
        kept = read_record(_file(cache, key), KeptAdvice)
        return kept.advice if kept.key == key else None
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
    key = _key(cache, selections, settings)
    with suppress(OSError, ValueError):  # or a number is not finite
        write_record(_file(cache, key), KeptAdvice(key=key, advice=advice))


def _file(cache: Cache, key: str) -> Path:
    return cache.root / "advice" / f"{key[:16]}.json"


def _key(cache: Cache, selections: Sequence[FeatureSource], settings: AdviseSettings) -> str:
    """Return the digest of settings, version, image sets and parts, which are never changed."""
    banks = {bank.path for each in selections for bank in cache.banks_of(each)}
    facts = {
        "version": bottleneck.__version__,
        "settings": asdict(settings),
        "layers": [each.as_dict() | {"typed": each.typed} for each in selections],
        "sets": {each.image_set: sha256_of(cache.set_file(each.image_set)) for each in selections},
        "parts": sorted(str(part) for path in banks for part in (path / "parts").glob("*.h5")),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

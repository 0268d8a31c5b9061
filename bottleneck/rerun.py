"""Turn an experiment of a sweep into what fits a head: its features and its classifier."""

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from bottleneck.cache import Cache
from bottleneck.errors import DataError, UsageError, counted
from bottleneck.experiments import Experiment, default_metric, rank
from bottleneck.experiments.compare import scores_of_choice
from bottleneck.features import SPLITS
from bottleneck.fields import given_in
from bottleneck.heads import Head
from bottleneck.images import ImageSet
from bottleneck.records import FeatureSource
from bottleneck.records.record import parse_record
from bottleneck.settings import FeatureSettings, FitSettings

__all__ = [
    "best_experiment",
    "differing",
    "features_and_settings",
    "is_current",
    "selection_facts",
    "with_selection",
]

_SETTING_OF = {"augment": "policy"}
"""Settings of an experiment that have another name among the options."""


def features_and_settings(experiment: Experiment) -> tuple[FeatureSource, FitSettings]:
    """Return the features and the classifier of an experiment.

    Parameters
    ----------
    experiment : Experiment
        An experiment that `bottleneck.run_sweep` has logged.

    Returns
    -------
    (FeatureSource, FitSettings)
        For `bottleneck.load_features` and `bottleneck.fit_head`.

    Raises
    ------
    DataError
        The experiment was not logged by a sweep.
    UsageError
        It was fitted on few images of each class.
    """
    known = experiment.settings
    if "shots" in known:
        raise UsageError(
            f"experiment {experiment.number} was fitted on {counted(known['shots'], 'image')} of "
            f"each class, but fit-head fits on all training images; give the number of one that "
            f"was, as 'bottleneck leaderboard --where shots=all' lists them"
        )
    facts = {each.name: known[each.name] for each in fields(FeatureSource) if each.name in known}
    own = {each.name: known[each.name] for each in fields(FitSettings) if each.name in known}
    try:
        source = parse_record(facts, FeatureSource)
        return replace(source, split_digests=None), FitSettings(**own)
    except ValueError as error:
        raise DataError(
            f"experiment {experiment.number} cannot be fitted again ({error}); give the number of "
            f"one that 'bottleneck sweep' has logged"
        ) from error


def is_current(experiment: Experiment, cache: Cache) -> bool:
    """Return whether the image set of an experiment is still the one in the cache.

    Parameters
    ----------
    experiment, cache : Experiment, Cache

    Returns
    -------
    bool
    """
    file = cache.set_file(str(experiment.settings.get("image_set", "-")))
    if not file.exists():
        return False
    images, known = ImageSet.read_csv(file), experiment.settings.get("split_digests") or {}
    return all(images.digest_of(name) == known.get(name) for name in SPLITS if name != "test")


def differing(
    experiment: Experiment, cache: Cache, chosen: FeatureSettings, settings: FitSettings
) -> str:
    """Return the name of a given setting that an experiment does not have; or ``""``.

    Parameters
    ----------
    experiment, cache : Experiment, Cache
        The experiment, and the cache of its features, which knows all names of its layer.
    chosen, settings : FeatureSettings, FitSettings
        Only values that were given count.

    Returns
    -------
    str
    """
    for each in (chosen, settings):
        for name in sorted(given_in(each) - {"device"}):
            value, there = getattr(each, name), experiment.told.get(_SETTING_OF.get(name, name))
            if value is not None and value not in (
                _layer_names(experiment, cache) if name == "layer" else {there}
            ):
                return name
    return ""


def _layer_names(experiment: Experiment, cache: Cache) -> set[str]:
    """Return all names of an experiment's layer."""
    model, layer = (experiment.settings.get(key) for key in ("model", "layer"))
    runs = [run for run in cache.runs(damaged_too=False) if run.model == model]
    same = [each for run in runs for each in run.layers if each.layer == layer]
    names = {name for each in same for name in each.aliases}
    return names | {name for name in (layer, experiment.layer) if name}


def best_experiment(
    cache: Cache,
    experiments: Sequence[Experiment],
    chosen: FeatureSettings,
    settings: FitSettings,
) -> tuple[Experiment, Mapping[str, Any]]:
    """Return the experiment with the best held-out score among those that can be fitted now.

    Parameters
    ----------
    cache : Cache
        The cache; only experiments on the images that are in it now count.
    experiments : sequence of Experiment
        All experiments.
    chosen, settings : FeatureSettings, FitSettings
        Only experiments that have the values given here count.

    Returns
    -------
    experiment : Experiment
        The best one.
    facts : dict
        See `selection_facts`.

    Raises
    ------
    DataError
        There is none.
    UsageError
        They belong to several image sets, whose scores cannot be compared.
    """
    whole = [each for each in experiments if "shots" not in each.settings]
    fitting = [each for each in whole if not differing(each, cache, chosen, settings)]
    found = [each for each in fitting if is_current(each, cache)]
    if not fitting:
        raise DataError(
            f"none of {counted(len(experiments), 'experiment')} has all the given options; leave "
            f"some out, or run 'bottleneck sweep' with them"
        )
    if not found:
        raise DataError(
            f"none of {counted(len(fitting), 'matching experiment')} is on the images that are in "
            f"the cache now; run 'bottleneck sweep' again"
        )
    if len(sets := sorted({each.settings["image_set"] for each in found})) > 1:
        raise UsageError(
            f"the experiments belong to the image sets {', '.join(sets)}, whose scores cannot be "
            f"compared; choose one with `image_set`"
        )
    best = rank(found, default_metric(found))[0].experiment
    return best, selection_facts(best, found)


def selection_facts(experiment: Experiment, experiments: Sequence[Experiment]) -> dict[str, Any]:
    """Return how good an experiment looks among those that it was selected from.

    Parameters
    ----------
    experiment : Experiment
        The selected one.
    experiments : sequence of Experiment
        All that can be fitted now, including it; only those of its image set and shots count.

    Returns
    -------
    dict
        ``metric``, its ``mean``, the number ``among`` which it was selected; and ``unselected``:
        the scores of the choice by metric where nothing was selected, see
        `bottleneck.experiments.unselected`, or None, also if another one is the best.
    """
    name, metric = experiment.settings["image_set"], default_metric([experiment])
    same = [each for each in experiments if each.settings["image_set"] == name]
    same = [each for each in same if each.told["shots"] == experiment.told["shots"]]
    ranked = rank(same, metric)
    own = next(each for each in ranked if each.experiment.number == experiment.number)
    known = scores_of_choice(ranked, metric)[1] if own is ranked[0] else None
    return {"metric": metric, "mean": own.mean, "among": len(ranked), "unselected": known}


def with_selection(head: Head, number: int, facts: Mapping[str, Any]) -> Head:
    """Return the head of a selected experiment, with scores that say so.

    Parameters
    ----------
    head : Head
        The experiment's classifier, fitted with its settings on its features.
    number : int
        The experiment.
    facts : mapping of str to Any
        See `selection_facts`.

    Returns
    -------
    Head
        The head. Its scores are those of the choice where nothing was selected, if they are known,
        and ``experiment`` says what it was selected from; ``selected`` are the head's own.
    """
    if facts["among"] == 1 or "selected" not in head.scores:
        return head
    known = facts["unselected"] or {}
    scores = {key: known.get(key, value) for key, value in head.scores.items()}
    chosen = {"number": number, "metric": facts["metric"], "best_of": facts["among"]}
    chosen["fold_out"] = known.get(facts["metric"])
    return replace(head, scores=scores | {"experiment": chosen})

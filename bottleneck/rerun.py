"""Turn an experiment of a sweep into what fits a head: its features and its classifier."""

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from bottleneck.cache import Cache
from bottleneck.errors import DataError, UsageError, counted
from bottleneck.experiments import Experiment, default_metric, rank, source_of
from bottleneck.experiments.compare import scores_of_choice
from bottleneck.experiments.log import LAYER_NAMES
from bottleneck.features import SPLITS
from bottleneck.fields import given_in
from bottleneck.heads import Head
from bottleneck.images import ImageSet
from bottleneck.records import AnySource, known_source
from bottleneck.settings import FitFeatures, FitSettings

__all__ = [
    "best_experiment",
    "differing",
    "features_and_settings",
    "is_current",
    "is_fitted",
    "selection_facts",
    "with_selection",
]

_SETTING_OF = {"augment": "policy"}
"""Settings of an experiment that have another name among the options."""
_OF_PARTS = {"layers": "layer", "models": "model", "pools": "pool"}
"""Options that may repeat to what each part of joined features has of them."""
_PARTS = "parts"


def features_and_settings(experiment: Experiment) -> tuple[AnySource, FitSettings]:
    """Return the features and the classifier of an experiment.

    Parameters
    ----------
    experiment : Experiment
        An experiment that `bottleneck.run_sweep` has logged.

    Returns
    -------
    (FeatureSource or JoinedSource, FitSettings)
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
    own = {each.name: known[each.name] for each in fields(FitSettings) if each.name in known}
    source = replace(source_of(experiment), split_digests=None)
    try:
        return source, FitSettings(**own)
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
    experiment: Experiment, cache: Cache, chosen: FitFeatures, settings: FitSettings
) -> str:
    """Return the name of a given setting that an experiment does not have; or ``""``.

    Parameters
    ----------
    experiment, cache : Experiment, Cache
        The experiment, and the cache of its features, which knows all names of its layer.
    chosen, settings : FitFeatures, FitSettings
        Only values that were given count. Of joined layers, each must be given.

    Returns
    -------
    str
    """
    known = experiment.settings
    parts = known.get(_PARTS, [{**known, "typed": experiment.layer}])
    for each in (chosen, settings):
        for name in sorted(given_in(each) - {"device"}):
            value = getattr(each, name)
            if name in _OF_PARTS:
                some = [part for part in parts if name != "pools" or not _is_vector(part)]
                own = [_names_of(part, name, cache) for part in some or parts]
                same = value == () or (
                    all(part.intersection(value) for part in own)
                    and all(any(one in part for part in own) for one in value)
                )
            elif name == "join":
                same = value == (_PARTS in known)
            else:
                setting = _SETTING_OF.get(name, name)
                there = experiment.told.get(setting, 0 if name == "views" else None)
                same = value in {None, there}
            if not same:
                return name
    return ""


def _is_vector(part: Mapping[str, Any]) -> bool:
    """Return whether a layer of an experiment is a vector, which no pooling changes."""
    return (part.get("axes"), part.get("stored_pool")) == ("C", "none")


def _names_of(part: Mapping[str, Any], name: str, cache: Cache) -> set[str]:
    """Return what a layer of an experiment may be called, or its model or pooling."""
    if name != "layers":
        return {str(part.get(_OF_PARTS[name]))}
    runs = [run for run in cache.runs(damaged_too=False) if run.model == part.get("model")]
    same = [each for run in runs for each in run.layers if each.layer == part.get("layer")]
    names = {alias for each in same for alias in each.aliases}
    return names | {part[key] for key in LAYER_NAMES if part.get(key)}


def best_experiment(
    cache: Cache,
    experiments: Sequence[Experiment],
    chosen: FitFeatures,
    settings: FitSettings,
) -> tuple[Experiment, Mapping[str, Any]]:
    """Return the experiment with the best held-out score among those that can be fitted now.

    Parameters
    ----------
    cache : Cache
        The cache; only experiments on the images that are in it now count.
    experiments : sequence of Experiment
        All experiments.
    chosen, settings : FitFeatures, FitSettings
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


def is_fitted(head: Head, experiment: Experiment, facts: Mapping[str, Any]) -> bool:
    """Return whether a head is what fitting a selected experiment again would give.

    Parameters
    ----------
    head : Head
        A head.
    experiment, facts : Experiment, mapping of str to Any
        As `best_experiment` returns them.

    Returns
    -------
    bool
        Also False where the head does not say so.
    """
    selected = head.scores.get("experiment") or {}
    if head.source is None or selected.get("best_of") != facts["among"]:
        return False
    source, settings = features_and_settings(experiment)
    known = known_source(head.source)
    same = replace(known, split_digests=None) == source and head.clf == settings.clf
    values = {name: getattr(settings, name, None) for name in head.hyperparameters}
    digests = experiment.settings.get("split_digests") or {}
    splits = known.split_digests or {}
    return (
        same
        and values == head.hyperparameters
        and all(splits.get(name) == digest for name, digest in digests.items())
    )

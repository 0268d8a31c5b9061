"""Rank bases by their best heads, with paired intervals and costs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from statistics import mean
from typing import Any

from bottleneck.cache import Cache
from bottleneck.costs import Cost, HeadShape, comparable_work, costs_of
from bottleneck.errors import DataError, UsageError, counted
from bottleneck.experiments import (
    LOWER_IS_BETTER,
    RULE_OF_THREE,
    Experiment,
    Ranked,
    default_metric,
    folds_of_choice,
    half_width,
    held_out_ratio,
    rank,
    share_folds,
    source_of,
    unselected,
    within_range,
)
from bottleneck.features import has_changed
from bottleneck.images import ImageSet
from bottleneck.records import AnySource

__all__ = ["Standing", "Standings", "rank_bases"]


Interval = tuple[float, float]


@dataclass(frozen=True)
class Standing:
    """A base with its best head.

    Attributes
    ----------
    model : str
        The base; of joined features of several, all of them with plus signs between.
    experiment : Experiment
        Its best one on these folds.
    selected : float
        The score of that experiment, which is too good if it is the best of several.
    best_of : int
        The number of experiments of this base.
    held_out : bool
        Whether `score` is one of images that nothing was selected on.
    score : float
        Mean over the folds, each scored by the experiment of this base that is best on inner folds
        of the other images; that of the experiment itself if it is the only one, or if there are no
        such scores.
    interval : (float, float) or None
        95% interval of `score`; None for a single fold.
    difference : float or None
        `score` minus that of the first base, on the same images; None for the first.
    difference_interval : (float, float) or None
        95% interval of the difference, paired over the folds and corrected for all pairs of bases,
        as the first base was selected; None for a single fold.
    cost : Cost
        What the features of the experiment cost, and a prediction of its head.
    on_front : bool or None
        Whether no other base is both at least as good and at least as cheap per prediction, and
        better in one of both; None if the costs are unknown.
    """

    model: str
    experiment: Experiment
    selected: float
    best_of: int
    held_out: bool
    score: float
    interval: Interval | None
    difference: float | None
    difference_interval: Interval | None
    cost: Cost
    on_front: bool | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return it in JSON types, with the number and the settings of the experiment.

        Returns
        -------
        dict of str to Any
        """
        own = {name: getattr(self, name) for name in self.__dataclass_fields__}
        best: Experiment = own.pop("experiment")
        facts = {"layer": best.layer, "pool": best.settings.get("pool"), "number": best.number}
        return {**own, **facts, "settings": best.settings, "cost": asdict(self.cost)}


@dataclass(frozen=True)
class Standings:
    """Bases, the best first.

    Attributes
    ----------
    metric : str
        The metric that they are ranked by.
    image_set : str
        The image set.
    bases : list of Standing
        One for each base.
    folds : int
        Number of paired folds.
    best_of : int
        Number of experiments of all these bases.
    choice : float or None
        The score of choosing base and head together, on images that nothing was selected on, see
        `bottleneck.experiments.unselected`. None if it is unknown.
    left_out : list of str
        Bases whose experiments have other folds, so that they cannot be compared.
    """

    metric: str
    image_set: str
    bases: list[Standing]
    folds: int
    best_of: int
    choice: float | None
    left_out: list[str]

    def as_dict(self, top: int | None = None) -> dict[str, Any]:
        """Return it in JSON types.

        Parameters
        ----------
        top : int, optional
            The number of bases to return.

        Returns
        -------
        dict of str to Any
        """
        own = {name: getattr(self, name) for name in self.__dataclass_fields__}
        own["fold_out"] = own.pop("choice")  # as in the first row of a ranking
        return {**own, "bases": [each.as_dict() for each in self.bases[:top]]}


def rank_bases(
    experiments: Sequence[Experiment], cache: Cache, metric: str | None = None
) -> Standings:
    """Rank bases by the held-out scores of their heads in a sweep.

    Experiments on the images that are in the cache now count. Of those with different folds or
    shots, the ones of most bases are compared; of equally many, the newest.

    Parameters
    ----------
    experiments : sequence of Experiment
        Experiments of sweeps.
    cache : Cache
        The cache of their features.
    metric : str, optional
        By default accuracy, or average precision where images may have several classes.

    Returns
    -------
    Standings

    Raises
    ------
    DataError
        None is on the images that are in the cache now, or one does not record its features.
    UsageError
        They belong to several image sets.
    UnknownNameError
        No experiment has the metric.
    """
    read = lru_cache(partial(_read, cache))
    current = [each for each in experiments if _is_current(each, read)]
    if not current:
        raise DataError(
            f"none of {counted(len(experiments), 'experiment')} is on the images that are in the "
            f"cache now; run 'bottleneck sweep' again, or name another cache with `cache`"
        )
    if len(sets := sorted({str(each.settings["image_set"]) for each in current})) > 1:
        raise UsageError(
            f"the experiments belong to the image sets {', '.join(sets)}, whose scores cannot be "
            f"compared; choose one with `where=image_set={sets[0]}`"
        )
    metric = metric or default_metric(current)
    ranked = rank(_comparable(current), metric)
    groups: dict[str, list[Ranked]] = {}
    for each in ranked:
        groups.setdefault(str(each.experiment.settings["model"]), []).append(each)
    images = ImageSet.read_csv(cache.set_file(sets[0]))
    priced = [_priced(own[0].experiment, images) for own in groups.values()]
    costs = dict(zip(groups, costs_of(cache, priced), strict=True))
    bases = _with_front(_standings(groups, costs, metric), metric)
    number, score = unselected(ranked, metric)
    return Standings(
        metric=metric,
        image_set=sets[0],
        bases=bases,
        folds=len(ranked[0].experiment.folds),
        best_of=number,
        choice=score,
        left_out=sorted({str(each.settings["model"]) for each in current} - groups.keys()),
    )


def _read(cache: Cache, name: str) -> ImageSet | None:
    file = cache.set_file(name)
    return ImageSet.read_csv(file) if file.exists() else None


def _is_current(experiment: Experiment, read: Callable[[str], ImageSet | None]) -> bool:
    """Return whether the training and validation images are those in the cache."""
    if "split_digests" not in experiment.settings:
        return False
    source = source_of(experiment)
    images = read(source.image_set)
    return images is not None and not has_changed(source, images)


def _comparable(experiments: Sequence[Experiment]) -> list[Experiment]:
    """Return experiments that share their folds: of most bases, else with the newest."""
    pools: list[list[Experiment]] = []
    for each in sorted(experiments, key=lambda one: one.number):
        same = next((pool for pool in pools if share_folds(pool[0], each)), None)
        if same is None:
            pools.append([each])
        else:
            same.append(each)

    def order(pool: Sequence[Experiment]) -> tuple[int, int]:
        return len({one.settings["model"] for one in pool}), pool[-1].number

    return max(pools, key=order)


def _standings(
    groups: Mapping[str, Sequence[Ranked]], costs: Mapping[str, Cost], metric: str
) -> list[Standing]:
    """Score each base by the choice of its head in each fold, and pair it with the best base."""
    sign = -1 if metric in LOWER_IS_BETTER else 1
    values, known = {}, {}
    for model, group in groups.items():
        folds = folds_of_choice([each.experiment for each in group], metric)
        known[model] = folds is not None
        # What cannot be chosen anew is scored where it was selected.
        best_folds = folds or folds_of_choice([group[0].experiment], metric) or []
        values[model] = [float(fold[metric]) for fold in best_folds]
    first = max(values, key=lambda model: sign * mean(values[model]))
    ratio = held_out_ratio(groups[first][0].experiment) if len(values[first]) > 1 else 0.0
    held = groups[first][0].experiment.folds
    # Folds that agree leave some uncertainty, too.
    least = RULE_OF_THREE / sum(fold["images"] for fold in held if not fold["repeat"])
    least *= metric == "accuracy"
    pairs = max(1, len(groups) * (len(groups) - 1) // 2)
    found = []
    for model, group in groups.items():
        own, best = values[model], group[0]
        around = _interval(own, ratio, least)
        apart = [one - other for one, other in zip(own, values[first], strict=True)]
        is_first = model == first
        found.append(
            Standing(
                model=model,
                experiment=best.experiment,
                selected=best.mean,
                best_of=len(group),
                held_out=known[model],
                score=mean(own),
                interval=around and within_range(*around, metric),
                difference=None if is_first else mean(apart),
                difference_interval=None if is_first else _interval(apart, ratio, least, pairs),
                cost=costs[model],
            )
        )
    return sorted(found, key=lambda each: (each.difference is not None, -sign * each.score))


def _interval(
    values: Sequence[float], ratio: float, least: float, comparisons: int = 1
) -> Interval | None:
    if len(values) < 2:  # noqa: PLR2004 - an interval needs two
        return None
    half = max(least, half_width(values, ratio, comparisons))
    return mean(values) - half, mean(values) + half


def _priced(experiment: Experiment, images: ImageSet) -> tuple[AnySource, HeadShape]:
    """Return the features of an experiment, and what the cost of its head depends on."""
    known = experiment.settings
    head = HeadShape(
        clf=str(known["clf"]),
        classes=len(images.classes),
        images=int(known.get("images", 0)),
        hidden=int(known.get("hidden", 0)),
    )
    return source_of(experiment), head


def _with_front(bases: Sequence[Standing], metric: str) -> list[Standing]:
    """Mark the bases that no other one beats both in score and in cost."""
    work = comparable_work([each.cost for each in bases])
    if work is None:
        return list(bases)
    sign = -1 if metric in LOWER_IS_BETTER else 1
    places = [(-sign * each.score, cost) for each, cost in zip(bases, work, strict=True)]
    return [
        replace(each, on_front=not any(_beats(other, own) for other in places))
        for each, own in zip(bases, places, strict=True)
    ]


def _beats(one: tuple[float, float], other: tuple[float, float]) -> bool:
    """Return whether one is nowhere larger than the other, and smaller somewhere."""
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))

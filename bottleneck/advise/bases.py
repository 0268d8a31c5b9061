"""Compare bases on the same held-out images: which one to take, and whether joining two pays."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from bottleneck.advise.curve import Estimate, Samples
from bottleneck.advise.scoring import Bench, Scored
from bottleneck.cache import Cache
from bottleneck.costs import Cost, HeadShape, comparable_work, costs_of
from bottleneck.errors import UsageError
from bottleneck.features import join_layers
from bottleneck.heads.recipes import MLP, Recipe
from bottleneck.records import AnySource, FeatureSource, JoinedSource

__all__ = [
    "BaseChoice",
    "BaseScore",
    "JoinedBases",
    "by_model",
    "choose_base",
    "of_base",
    "sentence_on",
]

Score = Callable[[AnySource], tuple[Bench, Scored]]


@dataclass(frozen=True)
class BaseScore:
    """Scores of heads on one base.

    Attributes
    ----------
    model : str
        The base.
    layer, pool : str
        The layer that is chosen in most folds, and its pooling.
    best_of : int
        Number of layers and poolings to choose from.
    accuracy : Estimate
        On held-out images. Each fold is scored by the layer that is best on folds within the other
        images, so that nothing was selected on it.
    difference : Estimate or None
        Accuracy minus that of the first base on the same images, with an interval that is corrected
        for all pairs of bases, as the first one was selected; None for the first.
    cost : Cost
        What the features of the layer cost, and a prediction from them.
    """

    model: str
    layer: str
    pool: str
    best_of: int
    accuracy: Estimate
    difference: Estimate | None
    cost: Cost


@dataclass(frozen=True)
class JoinedBases:
    """The layers of the two best bases, joined side by side.

    Attributes
    ----------
    source : JoinedSource
        The joined layers.
    accuracy : Estimate
        On held-out images.
    difference : Estimate
        Accuracy minus that of the best base on the same images.
    cost : Cost
        What the joined features cost, and a prediction from them.
    """

    source: JoinedSource
    accuracy: Estimate
    difference: Estimate
    cost: Cost

    @property
    def pays(self) -> bool:
        """Whether the interval of the difference lies above 0."""
        return self.difference.low > 0


@dataclass(frozen=True)
class BaseChoice:
    """Which of several bases to take.

    Attributes
    ----------
    model : str
        The base to take: the best, or the cheapest of those that are not shown to be worse.
    sentence : str
        The same in words, with the evidence.
    bases : list of BaseScore
        The most accurate first.
    joined : JoinedBases
        The two best, joined.
    choice : Estimate or None
        Accuracy of choosing base and layer together for each fold, on folds within the other
        images; None for a network, which has no such folds.
    """

    model: str
    sentence: str
    bases: list[BaseScore]
    joined: JoinedBases
    choice: Estimate | None


class _Found(NamedTuple):
    """A base with its accuracies, and the layer that is chosen most often."""

    model: str
    layers: Sequence[FeatureSource]
    layer: FeatureSource
    accuracy: Samples


def by_model(selections: Sequence[AnySource]) -> dict[str, list[FeatureSource]]:
    """Return the single layers of each base.

    Parameters
    ----------
    selections : sequence of FeatureSource or JoinedSource
        Layers of one or several bases; joined ones are left out.

    Returns
    -------
    dict of str to list of FeatureSource
    """
    found: dict[str, list[FeatureSource]] = {}
    for each in selections:
        if isinstance(each, FeatureSource):
            found.setdefault(each.model, []).append(each)
    return found


def of_base(selections: Sequence[AnySource], model: str) -> list[AnySource]:
    """Return the layers of one of several bases; joined, if the given ones are.

    Parameters
    ----------
    selections : sequence of FeatureSource or JoinedSource
        Layers of several bases, and perhaps all of these joined.
    model : str
        One of the bases.

    Returns
    -------
    list of FeatureSource or JoinedSource
    """
    own = by_model(selections)[model]
    several = len(own) > 1 and any(isinstance(each, JoinedSource) for each in selections)
    return [*own, join_layers(own)] if several else [*own]


def choose_base(
    cache: Cache, bases: Mapping[str, Sequence[FeatureSource]], recipe: Recipe, score: Score
) -> BaseChoice:
    """Score bases on the same held-out images, and choose one.

    Parameters
    ----------
    cache : Cache
        The cache.
    bases : mapping of str to sequence of FeatureSource
        The layers of each base, without views, the deepest first.
    recipe : Recipe
        The classifier.
    score : callable
        Fits heads on a layer, and scores the held-out images.

    Returns
    -------
    BaseChoice

    Raises
    ------
    UsageError
        The layers are of several image sets.
    """
    sets = {each.image_set for layers in bases.values() for each in layers}
    if len(sets) > 1:
        raise UsageError(
            f"bases can only be compared on the same images, but these layers are of the image "
            f"sets {', '.join(sorted(sets))}; choose one with `image_set`"
        )
    scored = {layer: score(layer) for layers in bases.values() for layer in layers}
    bench = next(iter(scored.values()))[0]
    hidden = recipe.hidden if isinstance(recipe, MLP) else 0
    head = HeadShape(recipe.name, len(bench.problem.targets.classes), bench.images, hidden)
    found = [_Found(model, own, *_chosen(own, scored)) for model, own in bases.items()]
    found.sort(key=lambda each: -float(each.accuracy.values.mean()))
    first, pairs = found[0], len(found) * (len(found) - 1) // 2
    source = join_layers([each.layer for each in found[:2]])
    priced: list[AnySource] = [*(each.layer for each in found), source]
    *costs, cost = costs_of(cache, [(each, head) for each in priced])
    scores = [
        BaseScore(
            model=each.model,
            layer=each.layer.layer_name,
            pool=each.layer.pool,
            best_of=len(each.layers),
            accuracy=each.accuracy.estimate().share(),
            difference=(each.accuracy - first.accuracy).estimate(pairs).difference()
            if place
            else None,
            cost=costs[place],
        )
        for place, each in enumerate(found)
    ]
    accuracy = _accuracy(score(source))
    difference = (accuracy - first.accuracy).estimate().difference()
    joined = JoinedBases(source, accuracy.estimate().share(), difference, cost)
    model, sentence = sentence_on(scores, joined)
    _, choice = _chosen(list(scored), scored)
    known = not isinstance(recipe, MLP)
    return BaseChoice(model, sentence, scores, joined, choice.estimate().share() if known else None)


def sentence_on(bases: Sequence[BaseScore], joined: JoinedBases) -> tuple[str, str]:
    """Return the base to take, and the reason in words.

    It is the most accurate one, unless others are not shown to be worse and one of these is
    cheaper.

    Parameters
    ----------
    bases : sequence of BaseScore
        Two or more, the most accurate first.
    joined : JoinedBases
        The first two, joined.

    Returns
    -------
    (str, str)
    """
    first, *others = bases
    close = [each for each in others if each.difference and each.difference.high >= 0]
    pays = f"joining {first.model} and {others[0].model} "
    pays += "pays" if joined.pays else "is not shown to pay"
    pays += f" ({joined.difference} against {first.model} alone)"
    if not close:
        apart = f"{others[0].model} is less accurate by {_minus(others[0])}"
        return first.model, f"take {_named(first)}: {apart}; {pays}"
    told = " and ".join(f"{each.model} ({each.difference})" for each in close)
    same = f"the intervals do not show that {told} {'is' if len(close) == 1 else 'are'} less "
    same += f"accurate than {first.model}"
    work = comparable_work([each.cost for each in (first, *close)])
    if work is None:
        return first.model, (
            f"take {_named(first)}, the most accurate here: {same}, and which is cheaper is "
            f"unknown; {pays}"
        )
    chosen = [first, *close][int(np.argmin(work))]
    dearest = f"{min(work):.2g} multiply-adds per prediction, the others {_listed(work)}"
    return chosen.model, f"take {_named(chosen)}, the cheapest of these: {same}; {dearest}; {pays}"


def _named(score: BaseScore) -> str:
    return f"{score.model} ({score.layer})" if score.best_of > 1 else score.model


def _listed(values: Sequence[float]) -> str:
    """Return all but the smallest value."""
    return " and ".join(f"{each:.2g}" for each in sorted(values)[1:])


def _minus(score: BaseScore) -> str:
    """Return how much less accurate a base is than the first."""
    apart = score.difference
    if apart is None:
        return ""
    return f"{-apart.value:.3f} ({-apart.high:.3f} to {-apart.low:.3f})"


def _accuracy(scored: tuple[Bench, Scored]) -> Samples:
    bench, scores = scored
    return bench.accuracy(scores)


def _chosen(
    layers: Sequence[FeatureSource], scored: Mapping[FeatureSource, tuple[Bench, Scored]]
) -> tuple[FeatureSource, Samples]:
    """Return the layer that is best on folds within most often, and the accuracy of this choice.

    Each fold is scored by the layer that is best on folds within the images that it fits on. For a
    network, which has no such folds, it is the first.
    """
    samples = [_accuracy(scored[layer]) for layer in layers]
    values = np.stack([each.values for each in samples])
    inner = np.stack([scored[layer][1].inner_accuracy for layer in layers])
    best = np.broadcast_to(inner, values.shape).argmax(axis=0)
    picked = np.take_along_axis(values, best[None], axis=0)[0]
    often = int(np.bincount(best.ravel()).argmax())
    return layers[often], replace(samples[0], values=picked)

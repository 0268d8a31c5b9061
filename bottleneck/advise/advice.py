"""From the cached features of some layers to what should be done next."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from bottleneck.advise.evidence import (
    HEAD_REPEATS,
    JudgedLayer,
    confident_error,
    head_scores,
    joined_gain,
    layer_scores,
    other_heads,
    rise,
)
from bottleneck.advise.network import Depths
from bottleneck.advise.scoring import LEAST_PER_CLASS, Bench, Scored, make_bench, score_sizes
from bottleneck.advise.verdict import Evidence, Verdict, decide
from bottleneck.cache import Cache
from bottleneck.errors import DataError, UsageError
from bottleneck.features import load_features
from bottleneck.fields import made
from bottleneck.heads.prepare import recipe_of
from bottleneck.heads.problem import Progress
from bottleneck.heads.recipes import Recipe
from bottleneck.records import FeatureSource
from bottleneck.settings import AdviseSettings

__all__ = ["Advice", "advise_on", "grid_sizes"]

_LEAST_SIZES = 3
"""A power law has as many numbers."""
_MOST_SIZES = 6


@dataclass(frozen=True)
class Advice:
    """What cached features say about what to do next.

    Attributes
    ----------
    image_set, model : str
        Of the layers.
    layer, pool : str
        The last layer, on which the curve and the heads are.
    clf : str
        The classifier.
    held_out : str
        What the scores are of.
    evidence : Evidence
        What was measured.
    verdict : Verdict
        What to do.
    """

    image_set: str
    model: str
    layer: str
    pool: str
    clf: str
    held_out: str
    evidence: Evidence
    verdict: Verdict

    def as_dict(self) -> dict[str, Any]:
        """Return the advice as JSON holds it."""
        return asdict(self)


def advise_on(
    cache: Cache,
    selections: Sequence[FeatureSource],
    settings: AdviseSettings | None = None,
    *,
    jobs: int | None = None,
    memory: int | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Advice:
    """Measure what limits a head: the number of images, the layer, the head itself or the labels.

    Heads are fitted on nested subsets of the training images and judged on images that they have
    not seen: the ``val`` images where there are any, else folds of the training images. The test
    images are not touched, nor are augmented views. The rules that lead to the verdict are those of
    `bottleneck.advise.verdict.decide`.

    Parameters
    ----------
    cache : Cache
        Where the features are.
    selections : sequence of FeatureSource
        The layers of one image set, as `bottleneck.select_layers` gives them.
    settings : AdviseSettings, optional
        How it is measured; or its fields, as `options`.
    jobs : int, optional
        Fits at a time, as joblib has it: its own configuration says how many by default.
    memory : int, optional
        Bytes that the features of a layer may take, see `bottleneck.load_features`.
    progress : callable, optional
        Called with ``"advise"``, the fits done and the fits to do.

    Raises
    ------
    UnknownNameError
        There is no such classifier.
    UsageError
        There are no layers, folds or repetitions, a layer does not fit into memory, or an image may
        be of several classes.
    DataError
        The set has no labels, no train images or one class only, or too few images for three sizes.
    CacheError
        The cache lacks rows, or a part is damaged.
    """
    settings = made(AdviseSettings, settings, options)
    if len({each.model for each in selections}) > 1:
        names = ", ".join(dict.fromkeys(each.model for each in selections))
        raise UsageError(
            f"the layers are of several models ({names}); expected those of one: choose it with "
            f"`model`"
        )
    if not selections:
        raise UsageError(
            "no layers to advise on; expected at least one: give those of an extraction"
        )
    study = _Study(cache, settings, recipe_of(settings.clf), jobs, memory, progress)
    depths = Depths(selections)
    layers = depths.in_order(selections)
    last = next(each for each in layers if each.layer == layers[-1].layer)
    bench = study.bench(last)
    evidence = _measure(study, bench, depths, layers, last)
    return Advice(
        image_set=last.image_set,
        model=last.model,
        layer=last.layer_name,
        pool=last.pool,
        clf=study.recipe.name,
        held_out=bench.held_out,
        evidence=evidence,
        verdict=decide(evidence),
    )


@dataclass
class _Study:
    """How layers are studied, and how far that is."""

    cache: Cache
    settings: AdviseSettings
    recipe: Recipe
    jobs: int | None
    memory: int | None
    progress: Progress | None
    total: int = 0
    done: int = 0

    def bench(self, selection: FeatureSource) -> Bench:
        """Load a layer."""
        features = load_features(self.cache, selection.with_views(0), memory=self.memory)
        if not isinstance(features.X, np.ndarray):
            raise UsageError(
                f"{selection} needs {features.bytes_in_memory / 1e6:.0f} MB with copies, but may "
                f"take {(self.memory or 0) / 1e6:.0f} MB; give a `pool` that makes fewer features, "
                f"or more `memory`"
            )
        return make_bench(features, self.recipe, self.settings)

    def score(self, bench: Bench, recipe: Recipe, sizes: Sequence[int]) -> list[Scored]:
        """Fit and score heads, and tell how far it is."""
        return score_sizes(bench, recipe, sizes, jobs=self.jobs, advance=self._advance)

    def expect(self, fits: int) -> None:
        """Say how many fits there are to do."""
        self.total, self.done = fits, -1
        self._advance()

    def _advance(self) -> None:
        self.done += 1
        if self.progress:
            self.progress("advise", self.done, self.total)


def _measure(
    study: _Study,
    bench: Bench,
    depths: Depths,
    layers: Sequence[FeatureSource],
    last: FeatureSource,
) -> Evidence:
    """Fit and judge all heads: of each size, of other kinds, and on other layers."""
    recipe, sizes, others = study.recipe, _sizes(bench), other_heads(study.recipe)
    briefly = bench.first(HEAD_REPEATS)
    study.expect(bench.fits * len(sizes) * len(layers) + briefly.fits * len(others))
    classes = len(bench.problem.targets.classes)
    judged = [
        JudgedLayer(
            each,
            depth,
            depths.fine_tuning(last, each, bench.problem.X.shape[1], classes),
            study.score(bench if each is last else study.bench(each), recipe, sizes),
        )
        for each, depth in zip(layers, depths.shares(layers), strict=True)
    ]
    own = judged[layers.index(last)]
    heads = [(each, study.score(briefly, each.recipe, sizes[-1:])[0]) for each in others]
    scores = layer_scores(bench, judged, own, seed=study.settings.seed)
    (curve,) = (each.curve for each in scores if each.difference is None)
    return Evidence(
        accuracy=curve.points[-1].accuracy,
        classes=classes,
        images=bench.images,
        curve=curve,
        layers=scores,
        heads=head_scores(briefly, heads, own.scored),
        joined=joined_gain(bench, judged, own),
        rise=rise(bench, judged, own),
        surest_error=confident_error(bench, own.scored),
        tuning=own.tuning,
    )


def _sizes(bench: Bench) -> list[int]:
    """Return how many rows heads are fitted on; `DataError` where there are too few sizes."""
    rows = min(int(fold.fit.sum()) for folds in bench.repeats for fold in folds)
    classes = len(bench.problem.targets.classes)
    sizes = grid_sizes(rows, classes)
    if len(sizes) < _LEAST_SIZES:
        least = LEAST_PER_CLASS * classes * 2 ** (_LEAST_SIZES - 1)
        raise DataError(
            f"heads can be fitted on {rows} training images of {classes} classes, and a learning "
            f"curve of {_LEAST_SIZES} sizes needs {least}; add images"
        )
    # Folds differ by a few rows: the largest size is all that each has.
    return [*sizes[:-1], bench.images]


def grid_sizes(n_rows: int, n_classes: int) -> list[int]:
    """Return how many rows the subsets have: halved again and again, ascending, all at last.

    Parameters
    ----------
    n_rows : int
        That there are.
    n_classes : int
        Of which every subset has `LEAST_PER_CLASS` rows.
    """
    halved = (n_rows // 2**k for k in range(_MOST_SIZES))
    return sorted({size for size in halved if size >= LEAST_PER_CLASS * n_classes} | {n_rows})

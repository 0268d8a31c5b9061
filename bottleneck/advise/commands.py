"""The one command to type next, after a verdict and what was done since, with its time."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from bottleneck.advise.advice import Advice
from bottleneck.advise.bases import of_base
from bottleneck.advise.kept import last_advice
from bottleneck.advise.verdict import (
    CEILING,
    EARLIER_LAYER,
    HEAD,
    JOINED,
    MORE_DATA,
    POOLING,
    UNDECIDED,
    Verdict,
    borne_out,
)
from bottleneck.cache import Cache
from bottleneck.errors import BottleneckError, UsageError, counted
from bottleneck.experiments import FineTuned, fine_tuned, same_rows
from bottleneck.features import cache_option, extract_command, select_layers
from bottleneck.heads import head_names
from bottleneck.heads.files import METADATA_FILE
from bottleneck.images import ImageSet
from bottleneck.records import AnySource, FeatureSource, HeadRecord, JoinedSource, read_record
from bottleneck.settings import FinetuneSettings, SweepFeatures

__all__ = ["Step", "next_step", "outcomes"]

_VAL_SHARE = 0.2
_FITS = 4
"""A fit without val images takes about so many times as long as one of the advice, as it tries more
values in more folds: 3 to 4 times for softmax and lda, more for svm and mlp."""
_MOST_BYTES = 2 * 10**9
"""Of activations that the command caches: more are left to the user."""


class _Named(NamedTuple):
    """A head that a verdict names: its features, its classifier, and the fit of it."""

    source: AnySource
    clf: str
    step: "Step"


class Step(NamedTuple):
    """What to type next.

    Attributes
    ----------
    command : list of str
        Its arguments, from ``bottleneck`` on.
    minutes : float or None
        About how long it takes on the machine that the advice was computed on; None if nothing
        that was measured tells.
    estimate : str
        What the estimate rests on, and what it is for.
    """

    command: list[str]
    minutes: float | None
    estimate: str


def outcomes(advice: Advice, heads: str | Path) -> list[tuple[FineTuned, str]]:
    """Return what fine-tuning from heads on the judged features gave.

    Parameters
    ----------
    advice : Advice
        The advice on these features.
    heads : str or Path
        Folder of the fitted heads, which need not exist.

    Returns
    -------
    list of (FineTuned, str)
        The result of each model, and whether it bears the verdict out, in words.
    """
    return [
        (each, borne_out(advice.verdict, advice.evidence, each))
        for each in fine_tuned(heads, advice.source)
    ]


def outcome(tuned: FineTuned, cache: Cache) -> str:
    """Return whether fine-tuning bears out the last verdict on the features that it started from.

    Parameters
    ----------
    tuned : FineTuned
        The result of fine-tuning.
    cache : Cache
        The cache with the advice.

    Returns
    -------
    str
        In words; empty if there was no advice.
    """
    advice = last_advice(cache, tuned.source)
    return borne_out(advice.verdict, advice.evidence, tuned) if advice else ""


def next_step(
    advice: Advice, selections: Sequence[AnySource], cache: Cache, heads: str | Path
) -> Step:
    """Return the command that follows from a verdict.

    Where it needs a head that `heads` lacks, it is the command that fits one. Where a head on the
    judged features was fine-tuned with a gain, it is the one that extracts the features of the
    fine-tuned network. Where all that the verdict names is done, the head is judged.

    Parameters
    ----------
    advice : Advice
        The advice.
    selections : sequence of FeatureSource or JoinedSource
        The layers that it is about, of all bases.
    cache : Cache
        The cache, with their image set.
    heads : str or Path
        Folder of the fitted heads, which need not exist.

    Returns
    -------
    Step
        About more images, its command extracts the layers again from the folder of the images, if
        that is known.
    """
    images = ImageSet.read_csv(cache.set_file(advice.source.image_set))
    if advice.bases:
        selections = of_base(selections, advice.source.model)
    layers = [each for each in selections if isinstance(each, FeatureSource)]
    named = _joined_bases(advice, cache) or _cached_gain(advice, images, selections)
    done = named and _head_on(advice, Path(heads), named.source, named.clf)
    step = named.step if named and not done else None
    further = partial(_further_images, advice.verdict, layers, images, cache)
    if step is None and not advice.verdict.layer:
        step = further() or (_judged_head(advice, images, done, []) if done else None)
    if step is None and (head := _head_on(advice, Path(heads), advice.source, advice.clf)):
        tuned = fine_tuned(heads, advice.source)
        step = _fine_tuning(advice, layers, images, cache, head=head, tuned=tuned)
        step = step or further() or _judged_head(advice, images, done or head, tuned)
    step = step or _fit_head(advice, images, advice.clf)
    where = cache_option(cache)
    if step.command[0] != "extract" and Path(heads) != Path("heads"):
        where += ["--heads", str(heads)]
    return step._replace(command=["bottleneck", *step.command, *where])


def _joined_bases(advice: Advice, cache: Cache) -> _Named | None:
    """Return the fit of a head on two bases, if joining them pays and options can select them."""
    if not (advice.bases and advice.bases.joined.pays):
        return None
    source = advice.bases.joined.source
    parts: dict[str, Any] = {
        "models": tuple(part.model for part in source.parts),
        "layers": tuple(dict.fromkeys(part.layer_name for part in source.parts)),
        "pools": tuple(dict.fromkeys(part.pool for part in source.parts if not part.is_vector)),
    }
    options = [
        text for name, own in parts.items() for each in own for text in (f"--{name[:-1]}", each)
    ]
    # Without views if those of the bases differ.
    for views, option in ((None, []), (0, ["--views", "0"])):
        asked = SweepFeatures(**parts, image_set=source.image_set, join=True, views=views)
        with suppress(BottleneckError):
            found = select_layers(cache, asked)[-1]
            if set(found.features) == set(source.features):
                where = ["--set", source.image_set, *options, "--join", *option]
                fit = Step(["fit-head", *where, "--clf", advice.clf], None, "")
                return _Named(found, advice.clf, fit)
    return None


def _cached_gain(
    advice: Advice, images: ImageSet, selections: Sequence[AnySource]
) -> _Named | None:
    """Return the fit of another layer or head, if the verdict says that it gains."""
    verdict, evidence = advice.verdict, advice.evidence
    if verdict.kind in {EARLIER_LAYER, POOLING}:
        layer = next(each for each in evidence.layers if each.difference == verdict.gain)
        options, named = ["--layer", layer.layer, "--pool", layer.pool], (layer.layer, layer.pool)
        source = next(each for each in selections if (each.layer_name, each.pool) == named)
        return _Named(source, advice.clf, _fit_head(advice, images, advice.clf, options))
    joined = next((each for each in selections if isinstance(each, JoinedSource)), None)
    if verdict.kind == JOINED and joined:
        layers = dict.fromkeys(part.layer_name for part in joined.parts)
        pools = dict.fromkeys(part.pool for part in joined.parts if not part.is_vector)
        options = [each for name in layers for each in ("--layer", name)]
        options += [each for pool in pools for each in ("--pool", pool)]
        fit = _fit_head(advice, images, advice.clf, [*options, "--join"])
        return _Named(joined, advice.clf, fit)
    if verdict.kind == HEAD:
        better = next(each for each in evidence.heads if each.difference == verdict.gain)
        return _Named(advice.source, better.clf, _fit_head(advice, images, better.clf))
    return None


def _further_images(
    verdict: Verdict, layers: Sequence[FeatureSource], images: ImageSet, cache: Cache
) -> Step | None:
    """Return the extraction of further images, if the verdict needs them."""
    undecided = verdict.kind == UNDECIDED and any(each.state == "open" for each in verdict.options)
    command = extract_command(layers, images) if verdict.kind == MORE_DATA or undecided else None
    return _extraction(command, cache, images, "as many images again") if command else None


def _fine_tuning(
    advice: Advice,
    layers: Sequence[FeatureSource],
    images: ImageSet,
    cache: Cache,
    *,
    head: str,
    tuned: Sequence[FineTuned],
) -> Step | None:
    """Return the fine-tuning that the verdict names; after one that gained, its extraction."""
    if not advice.verdict.layer:
        return None
    best = max(tuned, key=lambda each: each.interval[0], default=None)
    if best and best.interval[0] > 0:
        command = extract_command(layers, images, best.model)
        return _extraction(command, cache, images, "all images") if command else None
    tried = any(each.unfreeze == advice.verdict.layer for each in tuned)
    return None if tried else _training(advice, head, images)


def _judged_head(advice: Advice, images: ImageSet, head: str, tuned: Sequence[FineTuned]) -> Step:
    """Return the evaluation of the head, or of a better fine-tuned one.

    Where no images are held out, it is the report, which shows the images and says what is missing.
    """
    splits = {item.split for item in images.items}
    split = next((each for each in ("test", "val") if each in splits), None)
    if better := [each for each in tuned if each.gain > 0]:
        head = Path(max(better, key=lambda each: each.gain).model).name
    noisy = advice.verdict.kind == CEILING
    if not split:
        return Step(["report", "--head", head, *["--suspects"] * noisy], None, "")
    errors = ["--errors", "errors.csv"] if noisy else []
    return Step(["evaluate", "--head", head, "--split", split, *errors], None, "")


def _fit_head(advice: Advice, images: ImageSet, clf: str, layers: Sequence[str] = ()) -> Step:
    source = advice.source
    chosen = ["--model", source.model, "--set", source.image_set]
    layers = layers or ["--layer", source.layer_name, "--pool", source.pool]
    seconds = advice.fit_seconds.get(clf)
    if seconds is not None and all(item.split != "val" for item in images.items):
        seconds *= _FITS
    basis = f"from a fit of {clf} on the images of the learning curve"
    return _timed(["fit-head", *chosen, *layers, "--clf", clf], seconds, basis)


def _training(advice: Advice, head: str, images: ImageSet) -> Step:
    """Return the fine-tuning that the verdict names, and its time by the trial."""
    layer, trial = str(advice.verdict.layer), advice.trial
    count, val = (sum(i.split == each for i in images.items) for each in ("train", "val"))
    share = 0.0 if val else _VAL_SHARE
    val, count = val or round(share * count), count - round(share * count)
    command = ["finetune", "--head", head, "--unfreeze", layer]
    command += ["--val-share", f"{share}"] if share else []
    settings = FinetuneSettings(layer)
    if 0 < trial.get("bytes", 0.0) * (count + val) <= _MOST_BYTES:
        with suppress(UsageError):  # where views are to be counted, they are the user's choice
            settings = FinetuneSettings(layer, from_cache=True)
            command += ["--from-cache"]
    if not trial:
        return Step(command, None, "")
    frozen = trial["frozen"] * (count + val)
    trained = trial["trained"] * count + trial["passed"] * val
    epochs = settings.epochs
    seconds = frozen + epochs * trained if settings.from_cache else epochs * (frozen + trained)
    seconds += _FITS * advice.fit_seconds.get(advice.clf, 0.0)  # the head, without val images
    most, tried = counted(epochs, "epoch"), counted(int(trial["images"]), "image")
    return _timed(command, seconds, f"for at most {most}, from a trial with {tried}")


def _extraction(command: list[str], cache: Cache, images: ImageSet, what: str) -> Step:
    """Return an extraction, and its time by that of the last one of these images."""
    for run in reversed(cache.runs(damaged_too=False)):
        if run.image_set == images.name and run.computed:
            seconds = run.seconds / run.computed * len(images.items)
            return _timed(command, seconds, f"for {what}, from the last extraction")
    return Step(command, None, "")


def _timed(command: list[str], seconds: float | None, basis: str) -> Step:
    return Step(command, None, "") if seconds is None else Step(command, seconds / 60, basis)


def _head_on(advice: Advice, heads: Path, source: AnySource, clf: str) -> str | None:
    """Return the newest head on some features of the judged images, by a classifier.

    A fine-tuning in which no epoch was better leaves the network as it is, and a head on the same
    features that lacks the validation images: it is only taken if there is no other.
    """
    found, wanted = {}, replace(source, split_digests=advice.source.split_digests)
    for name in head_names(heads):
        with suppress(BottleneckError):
            record = read_record(heads / name / METADATA_FILE, HeadRecord)
            same = record.source and same_rows(record.source, wanted)
            if same and record.clf == clf:
                found[name] = ("unfreeze" not in record.hyperparameters, record.created)
    return max(found, key=found.__getitem__, default=None)

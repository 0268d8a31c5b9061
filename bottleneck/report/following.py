"""What to do next, where features came from, and the commands that repeat a report."""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from bottleneck.advise import Advice, last_advice, next_step, outcomes
from bottleneck.cache import Cache
from bottleneck.errors import BottleneckError, as_options, counted
from bottleneck.experiments import ExperimentLog, FineTuned, default_metric, fine_tuned, rank
from bottleneck.features import cache_option, matching_layers
from bottleneck.features.commands import remedy_for
from bottleneck.fields import declared
from bottleneck.heads import Head
from bottleneck.images import ImageSet
from bottleneck.records import AnySource, FeatureSource
from bottleneck.report.drawing import Picture, drawing, epochs_of
from bottleneck.settings import FeatureSettings, FitSettings, ReportSettings

__all__ = ["Leaderboard", "NextSection", "Source", "Tuned", "following", "repeating", "sources_of"]

_BEST = 10
_SHOWN = ("model", "layer", "pool", "clf", "C")


@dataclass(frozen=True)
class Leaderboard:
    """The best experiments of sweeps on these images.

    Attributes
    ----------
    log, metric : str
        The file, and the metric that they are sorted by.
    rows : list of dict
        The best first.
    experiments : int
        Number of all experiments on these images.
    """

    log: str
    metric: str
    rows: list[dict[str, Any]]
    experiments: int


@dataclass(frozen=True)
class Tuned:
    """A network that was fine-tuned from a head on these features.

    Attributes
    ----------
    model : str
        Its folder.
    sentence : str
        Its gain, and whether it bears the advice out.
    epochs : Picture or None
        The curves of its training.
    """

    model: str
    sentence: str
    epochs: Picture | None


@dataclass(frozen=True)
class NextSection:
    """What to do next.

    Attributes
    ----------
    advice : Advice or None
        The last advice on these features.
    curves : Picture or None
        Its learning curve and layers.
    command, estimate : str
        What to type, and about how long it takes.
    tuned : list of Tuned
        What fine-tuning gave.
    leaderboard : Leaderboard or None
        None without experiments on these images.
    """

    advice: Advice | None = None
    curves: Picture | None = None
    command: str = ""
    estimate: str = ""
    tuned: list[Tuned] = field(default_factory=list)
    leaderboard: Leaderboard | None = None

    @property
    def has_content(self) -> bool:
        """Whether there is anything to show."""
        return bool(self.advice or self.leaderboard or self.tuned)


@dataclass(frozen=True)
class Source:
    """Where features or a head came from.

    Attributes
    ----------
    title : str
        The layer of features.
    facts : dict of str to str
        Model, weights, fingerprint, precision and versions.
    """

    title: str
    facts: dict[str, str]


def following(
    cache: Cache, source: AnySource, heads: Path, log: Path, notes: list[str]
) -> NextSection:
    """Return the last advice on features, and the best experiments on their images.

    Parameters
    ----------
    cache : Cache
        The cache, which keeps advice.
    source : FeatureSource or JoinedSource
        The features.
    heads, log : Path
        Folder of the heads, and the log of sweeps; neither need exist.
    notes : list of str
        Gets a sentence about what could not be read.

    Returns
    -------
    NextSection
    """
    advice, leaderboard = _advice(cache, source), _leaderboard(log, source.image_set, notes)
    if advice is None:
        gains = [(each, "") for each in fine_tuned(heads, source)]
        return NextSection(tuned=list(map(_tuned, gains)), leaderboard=leaderboard)
    command, estimate = _step(advice, cache, heads)
    alt = (
        f"Learning curve of {advice.clf} on {advice.source.layer_name}, with a forecast, and the "
        f"held-out accuracy on each layer: {advice.verdict.kind}"
    )
    curves = drawing(partial(_draw, advice), alt)
    tuned = list(map(_tuned, outcomes(advice, heads)))
    return NextSection(advice, curves, command, estimate, tuned, leaderboard)


def _tuned(found: tuple[FineTuned, str]) -> Tuned:
    """Return what a fine-tuning gave, beside the advice."""
    gain, told = found
    sentence = (
        f"trained from {gain.unfreeze}: accuracy {gain.before:.3f} before and {gain.after:.3f} "
        f"after on {counted(gain.images, 'validation image')}, {gain.shown_gain}"
    )
    epochs = None
    with suppress(BottleneckError):  # the folder's record is whole, its head may not be
        epochs = epochs_of(gain.model, Head.load(gain.model).scores)
    return Tuned(gain.model, "; ".join(filter(None, [sentence, told])), epochs)


def _advice(cache: Cache, source: AnySource) -> Advice | None:
    """Return the last advice on these features, or else on others of the same images."""
    if isinstance(source, FeatureSource) and (own := last_advice(cache, source)):
        return own
    last = last_advice(cache)
    return last if last and last.source.image_set == source.image_set else None


def _draw(advice: Advice, file: Path) -> None:
    from bottleneck.pictures import draw_advice

    draw_advice(advice, file)


def _step(advice: Advice, cache: Cache, heads: Path) -> tuple[str, str]:
    """Return the command that follows from a verdict, and about how long it takes."""
    asked = FeatureSettings(model=advice.source.model, image_set=advice.source.image_set)
    with suppress(BottleneckError):
        step = next_step(advice, matching_layers(cache, asked), cache, heads)
        minutes = counted(max(1, round(step.minutes or 0)), "minute")
        told = "" if step.minutes is None else f"about {minutes} on this machine, {step.estimate}"
        return shlex.join(step.command), told
    return "", ""


def _leaderboard(log: Path, image_set: str, notes: list[str]) -> Leaderboard | None:
    if not log.exists():
        return None
    try:
        every = ExperimentLog(log).experiments()
    except BottleneckError as error:
        notes.append(f"no leaderboard: {as_options(error)}")
        return None
    own = [each for each in every if each.settings.get("image_set") == image_set]
    if not own:
        return None
    metric = default_metric(own)
    rows = [
        {
            "number": each.experiment.number,
            **{name: each.experiment.told.get(name) for name in _SHOWN},
            "layer": each.experiment.layer,
            metric: each.mean,
            "std": each.std,
        }
        for each in rank(own, metric)[:_BEST]
    ]
    return Leaderboard(str(log), metric, rows, len(own))


def sources_of(cache: Cache, parts: Iterable[FeatureSource]) -> list[Source]:
    """Return where features came from.

    Parameters
    ----------
    cache : Cache
        The cache.
    parts : iterable of FeatureSource
        The layers of the features.

    Returns
    -------
    list of Source
    """
    return [Source(str(part), _facts(cache, part)) for part in parts]


def _facts(cache: Cache, part: FeatureSource) -> dict[str, str]:
    facts: dict[str, Any] = {
        "image set": part.image_set,
        "model": part.model,
        "weights": part.weights + " (random, for testing only)" * part.weights_random,
        "layer": part.layer,
        "pooling": part.pool,
        "computed in": part.precision or "unknown precision",
        "stored as": part.dtype,
        "fingerprint": part.fingerprint,
        "bank": part.bank,
    }
    with suppress(BottleneckError):
        info = cache.banks_of(part)[0].info
        facts["digest of the weights"] = info.weights or ""
        facts["computed since"] = info.created or ""
        facts |= {f"version of {name}": each for name, each in (info.versions or {}).items()}
    return {name: str(each) for name, each in facts.items() if each}


def repeating(
    cache: Cache,
    parts: Iterable[FeatureSource],
    images: ImageSet,
    heads: Mapping[str, Head],
    *,
    heads_folder: Path,
    settings: ReportSettings,
) -> list[str]:
    """Return the commands that repeat a report, from the extraction on.

    Parameters
    ----------
    cache : Cache
        The cache.
    parts : iterable of FeatureSource
        The layers of the features.
    images : ImageSet
        Their images.
    heads : mapping of str to Head
        Heads by name.
    heads_folder : Path
        Their folder.
    settings : ReportSettings
        Those of the report.

    Returns
    -------
    list of str
    """
    where = [] if heads_folder == Path("heads") else ["--heads", str(heads_folder)]
    where += cache_option(cache)
    extractions = [remedy_for(part, images, cache) for part in parts]
    fits = [_fit(name, head, where) for name, head in heads.items()]
    given = [text for name in heads for text in ("--head", name)] or ["--set", images.name]
    given += _options(ReportSettings, asdict(settings) | {"image_set": None})
    report = shlex.join(["bottleneck", "report", *given, *where])
    return [*dict.fromkeys(extractions), *fits, report]


def _fit(name: str, head: Head, where: Sequence[str]) -> str:
    """Return the command that fits a head again, or why there is none."""
    if head.source is None:
        return f"# {name} does not record its features"
    if "unfreeze" in head.hyperparameters:
        return f"# {name} was fine-tuned: its model.json has the settings"
    parts = head.source.parts
    words = ["bottleneck", "fit-head", "--set", parts[0].image_set]
    for flag, names in (
        ("--model", [part.model for part in parts]),
        ("--layer", [part.layer_name for part in parts]),
        ("--pool", [part.pool for part in parts if not part.is_vector]),
    ):
        words += [text for each in dict.fromkeys(names) for text in (flag, each)]
    words += ["--join"] * (len(parts) > 1)
    fitted = {"power": head.power, "normalize": head.normalize}
    words += ["--clf", head.clf, *_options(FitSettings, fitted | head.hyperparameters)]
    return shlex.join([*words, "--name", name, *where])


def _options(kind: type, values: Mapping[str, Any]) -> list[str]:
    """Return the options of settings whose values are not the defaults."""
    words: list[str] = []
    for each in declared(kind):
        value = values.get(each.name, each.default)
        if value == each.default:
            continue
        if isinstance(value, bool):
            words.append(each.flag if value else each.opposite)
        else:
            several = value if isinstance(value, list | tuple) else [value]
            words += [each.flag, ",".join(map(str, several))]
    return words

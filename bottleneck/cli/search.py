"""The command that goes from images to an evaluated head: auto."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields
from functools import cached_property
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bottleneck.cli import options
from bottleneck.cli.chain import Chain
from bottleneck.cli.command import Config, add_command
from bottleneck.cli.output import TimeUp, loading, print_table, progress_shown, show, stop, wanted
from bottleneck.cli.streams import note
from bottleneck.cli.summary import open_images, summary_known
from bottleneck.errors import BottleneckError, DataError, counted
from bottleneck.settings import AutoSettings, ImageSettings

if TYPE_CHECKING:
    from bottleneck.advise import Advice
    from bottleneck.auto import Clock
    from bottleneck.evaluate import Evaluation
    from bottleneck.experiments import Experiment
    from bottleneck.extract import Forecast
    from bottleneck.heads import Head
    from bottleneck.images import ImageSet
    from bottleneck.records import AnySource

__all__ = ["auto"]

_LEFT_OUT = 1
"""The exit status of an extraction that had to leave images out."""


@add_command("auto", "Heads", "as_json", "wide")
def auto(
    file: Config,
    settings: AutoSettings,
    folders: options.Folders,
    name: options.NewName = None,
    log: options.Log = Path("experiments.sqlite"),
    jobs: options.Jobs = -1,
) -> None:
    """Find the best head for a folder of images, and evaluate it, in one command.

    Extracts with up to three bases, as many as fit the time; compares classifiers on their
    features; fits the best by held-out score, evaluates it once on the test images, and advises.
    Each command is printed before it runs, so that you can go on from there. Exits with 1 if images
    had to be left out, or the time was too short for any head.
    """
    from bottleneck.auto import Clock, check_images
    from bottleneck.bases import find_model
    from bottleneck.files import slug
    from bottleneck.heads import check_head_folder

    clock = Clock(settings.minutes)
    images = open_images(settings, folders.cache)
    check_images(images, settings.data)
    for model in settings.models:
        find_model(model)  # an unknown name needs no PyTorch
    head = name or f"auto-{slug(images.name)}"
    check_head_folder(folders.heads / head)
    with options.in_parallel(jobs):
        pass  # a wrong number is told before anything is computed
    search = _Search(Chain(file), settings, folders, images, head, log, jobs, clock)
    with summary_known(images), _resumable():
        search.extract(search.forecast())
        search.sweep()
        search.fit()
        evaluation = search.evaluate()
        search.advise()
    search.tell(evaluation)


@contextmanager
def _resumable() -> Iterator[None]:
    """If the search is interrupted, say how to continue it."""
    try:
        yield
    except SystemExit:
        if stop.number is not None:
            note("stopped: run 'bottleneck auto' again to continue with what is stored")
        raise


@dataclass
class _Search:
    """The commands of a search, and their results."""

    chain: Chain
    settings: AutoSettings
    folders: options.Folders
    images: "ImageSet"
    name: str
    log: Path
    jobs: int
    clock: "Clock"
    forecasts: "list[Forecast]" = field(default_factory=list)
    bases: list[str] = field(default_factory=list)
    undone: list[str] = field(default_factory=list)
    incomplete: bool = False
    advice: "Advice | None" = None

    def forecast(self) -> list[str]:
        """Forecast the extraction by each base that can be used; return those that fit the time."""
        from bottleneck.auto import MOST, bases_here, choose_bases, forecast_bases
        from bottleneck.cache import Cache

        named = self.settings.models
        with loading():
            names = named or bases_here()
            import bottleneck.extract  # noqa: F401
        each = (self.chain.arguments("extract", self._extraction(name)) for name in names)
        quiet = not sys.stderr.isatty()  # a trial is short
        with progress_shown(quiet=quiet) as progress:
            self.forecasts = forecast_bases(
                self.images,
                Cache(self.folders.cache),
                (own["settings"].each()[0] for own in each),
                named=bool(named),
                until=self.clock.end_of(self.clock.TRIALS),
                progress=progress,
            )
        left = self.clock.left(self.clock.EXTRACTION)
        chosen = choose_bases(self.forecasts, left)
        self._tell_forecasts(chosen, left)
        slow = [each.model for each in self.forecasts[:MOST] if each.model not in chosen]
        self.undone += [f"the extraction by {' and '.join(slow)}"] * bool(slow)
        return chosen

    def _extraction(self, *models: str) -> dict[str, Any]:
        own = {each.name: getattr(self.settings, each.name) for each in fields(ImageSettings)}
        where = {"device": self.settings.device, "cache": self.folders.cache}
        return {"models": models, **own, **where}

    def _tell_forecasts(self, chosen: list[str], left: float) -> None:
        fastest = self.forecasts[0]
        if not wanted("json"):
            rows = [
                {
                    "base": each.model,
                    "images to compute": each.missing,
                    "seconds": each.seconds,
                    "megabytes": each.bytes_on_disk / 1e6,
                    "taken": "yes" if each.model in chosen else "no",
                }
                for each in self.forecasts
            ]
            print_table(rows, "forecast of the extraction by each base")
        if fastest.missing and fastest.seconds > left:
            note(
                f"note: even the fastest base, {fastest.model}, would take about "
                f"{fastest.seconds / 60:.1f} minutes; what it computes in time is stored"
            )

    def extract(self, chosen: Sequence[str]) -> None:
        """Extract with all bases at once; within a given time, first with the fastest one alone.

        The fastest may take all of the time, as without its features there is no head.
        """
        cached = {each.model for each in self.forecasts if not each.missing}
        first = len(chosen) if self.settings.minutes is None else 1
        queue = [each for each in (chosen[:first], chosen[first:]) if each]
        while queue:
            models = queue.pop(0)
            end = self.clock.end_of(self.clock.EXTRACTION if self.bases else 1.0)
            try:
                with stop.at(inf if cached.issuperset(models) else end):
                    if self._extract(models):
                        self.bases += models
                    elif len(models) > 1:  # one of them is to blame
                        queue = [[model] for model in models] + queue
            except TimeUp:
                late = [model for each in (models, *queue) for model in each]
                self.undone.append(f"the extraction by {' and '.join(late)}")
                break
        if not self.bases:
            raise DataError(
                "no features could be computed: give more `minutes`, as the same command continues "
                "with what is stored, or name other bases with `model`"
            )

    def _extract(self, models: Sequence[str]) -> bool:
        """Extract with bases; return whether they could compute the images."""
        refusals: list[str] = []

        def refused(told: str, _: int) -> None:
            refusals.append(told)
            note(f"warning: no features by {' and '.join(models)}: {told}")

        try:
            self.chain.run("extract", self._extraction(*models), refused)
        except TimeUp:
            raise
        except SystemExit as ended:
            if ended.code != _LEFT_OUT:
                raise
            self.incomplete = True
        return not refusals

    def sweep(self) -> None:
        """Compare classifiers on the features of all bases, until the time for it is over."""
        asked = {
            "models": tuple(self.bases),
            "image_set": self.images.name,
            "clfs": self._classifiers,
            "seed": self.settings.seed,
            "log": self.log,
            "jobs": self.jobs,
            "cache": self.folders.cache,
        }
        try:
            with stop.at(self.clock.end_of(self.clock.SWEEP)):
                self.chain.run("sweep", asked)
        except TimeUp:
            self.undone.append("the sweep")

    @property
    def _classifiers(self) -> tuple[str, ...]:
        from bottleneck.auto import classifiers_for

        return self.settings.clfs or classifiers_for(self.images)

    def fit(self) -> None:
        """Fit the best experiment so far; if there is none, the last classifier on one base."""
        chosen: dict[str, Any] = {"image_set": self.images.name}
        best = self._best(chosen)
        if best and self._is_fitted(*best):
            note(f"{self.name} is the best of the experiments, and fitted already")
            return
        if best:
            chosen |= {"best": True, "log": self.log}
        else:
            chosen |= {"models": (self.bases[0],), "clf": self._classifiers[-1]}
        self.chain.run("fit-head", chosen | {"name": self.name} | self._folders)

    def _best(self, chosen: "Mapping[str, Any]") -> "tuple[Experiment, Mapping[str, Any]] | None":
        """Return what fit-head would take as the best experiment, if there is any."""
        from bottleneck.cache import Cache
        from bottleneck.experiments import ExperimentLog
        from bottleneck.rerun import best_experiment

        asked = self.chain.arguments("fit-head", chosen)
        store, log = Cache(self.folders.cache), ExperimentLog(self.log)
        with suppress(DataError):  # there is none
            found = log.experiments()
            return best_experiment(store, found, asked["chosen"], asked["settings"])
        return None

    def _is_fitted(self, best: "Experiment", facts: "Mapping[str, Any]") -> bool:
        from bottleneck.heads import Head
        from bottleneck.rerun import is_fitted

        with suppress(BottleneckError):  # there is no such head, or it is damaged
            return is_fitted(Head.load(self.folders.heads / self.name), best, facts)
        return False

    def evaluate(self) -> "Evaluation":
        """Evaluate the head once, on the test images."""
        found: Evaluation = self.chain.run("evaluate", {"head": self.name} | self._folders)
        return found

    def advise(self) -> None:
        """Advise on all bases and on the classifier of the head, if the time suffices."""
        asked = {
            "models": tuple(self.bases),
            "clf": self.head.clf,
            "image_set": self.images.name,
            "seed": self.settings.seed,
            "jobs": self.jobs,
            **self._folders,
        }

        def refused(told: str, _: int) -> None:
            note(f"note: no advice: {told}")

        try:
            with stop.at(self.clock.end_of()):
                self.advice = self.chain.run("advise", asked, refused)
        except TimeUp:
            self.undone.append("the advice")

    @cached_property
    def head(self) -> "Head":
        """The fitted head."""
        from bottleneck.heads import Head

        return Head.load(self.folders.heads / self.name)

    @property
    def source(self) -> "AnySource":
        """The features of the head."""
        from bottleneck.records import known_source

        return known_source(self.head.source)

    @property
    def _folders(self) -> dict[str, Any]:
        return {"cache": self.folders.cache, "heads": self.folders.heads}

    def tell(self, evaluation: "Evaluation") -> None:
        """Print the result; exit with 1 if images had to be left out."""
        from bottleneck.images import summarize

        content = {
            "summary": summarize(self.images).as_dict(),
            "forecasts": [each.as_dict() for each in self.forecasts],
            "bases": self.bases,
            "head": self.name,
            "source": self.head.as_dict()["source"],
            "clf": self.head.clf,
            "evaluation": evaluation.as_dict(),
            "advice": self.advice.as_dict() if self.advice else None,
            "undone": self.undone,
            "commands": self.chain.commands,
        }
        show(content, lambda: self._print(evaluation))
        if self.undone:
            note(
                f"the time did not suffice for {', '.join(self.undone)}; run the same command "
                f"again to continue"
            )
        if self.incomplete:
            sys.exit(_LEFT_OUT)

    def _print(self, found: "Evaluation") -> None:
        low, high = found.accuracy_interval
        print(
            f"\n{self.name}: {self.head.clf} on {self.source}, accuracy "
            f"{found.accuracy:.4f} (95% interval {low:.4f} to {high:.4f}) on "
            f"{counted(found.images, 'test image')}"
        )
        print("The commands were:", *self.chain.commands, sep="\n  ")
        predicted = {"head": self.name, "images": (self.settings.data,)}
        named = "the command that the advice names, or with" if self.advice else ""
        print(f"Continue with {named}".rstrip())
        print(f"  {self.chain.line('predict', predicted | self._folders)}")

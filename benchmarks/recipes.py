"""Which recipe of fine-tuning gains? ``benchmarks/recipes.py``.

Tries variants of the recipe from the cache on one of the sets of ``sets.py`` (``--set clipart
--packages FOLDER``, the folder of its package's files), or on the demo's faces where no folder is
given. For each seed, with splits of its own, a head is fitted on features of EfficientNet-Lite0 of
all training images; each of ``--variants`` (a table below, by default all) is fine-tuned from it,
on cached activations, and both are scored on the test images, as a user would by ``bottleneck
evaluate``.

With ``--screen 1`` all training images (``--train 400`` of them) are trained on, and the last epoch
is scored, so that nothing is chosen; likewise the weights half way between the start and the end,
and the mean of those of the last epochs. This compares many variants by few images. Its winners are
then to be tried without it, on sets that did not choose them.

Each run is written into ``--out`` as it ends, so that the same command goes on where it stopped, or
adds seeds and variants; ``--out`` also keeps the cache. Figures are those of each run, and of each
variant the paired gains, in accuracy and in log loss (where less is better), over the head and over
the variant ``default``: means with 95% intervals (Student's t over the seeds), and seconds of
training. What a variant does that is no option of the product is a class below, which takes the
place of `bottleneck.finetune.loop.Training`.
"""

import argparse
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torchvision.ops import StochasticDepth

from bottleneck import (
    Cache,
    FinetuneSettings,
    FrozenBase,
    Head,
    ImageSet,
    evaluate_head,
    extract_features,
    features_of,
    fit_head,
    load_features,
    select_features,
)
from bottleneck.files import read_json, write_json
from bottleneck.finetune import Finetuned, fill_split, finetune_head
from bottleneck.finetune.loop import Training
from common import run
from plateau import interval
from precision import pictures
from sets import load

MODEL, LAYER = "efficientnet_lite0", "penultimate"
SHARED: dict[str, Any] = {"unfreeze": "blocks.3", "from_cache": True, "val_share": 0.15}
"""Of all variants that do not say otherwise."""
FORMER: dict[str, Any] = {
    "learning_rate": 1e-3,
    "backbone_lr_factor": 0.1,
    "layer_decay": 0.5,
    "label_smoothing": 0.0,
}
METRICS = ("accuracy", "log_loss")


class Averaged(Training):
    """Scores, and keeps, an average of the weights of many steps.

    Subclasses make it and update it.
    """

    averaged: AveragedModel

    def scores(self, first: int | None = None) -> np.ndarray:
        with self._average():
            return super().scores(first)

    def weights(self) -> dict[str, torch.Tensor]:
        with self._average():
            return super().weights()

    @contextmanager
    def _average(self) -> Iterator[None]:
        trained = self.network
        self.network = self.averaged.module
        try:
            yield
        finally:
            self.network = trained


class MovingAverage(Averaged):
    """Exponential moving average of the weights of all steps, the start included."""

    decay = 0.95

    def __post_init__(self) -> None:
        super().__post_init__()
        self.averaged = AveragedModel(self.network, multi_avg_fn=get_ema_multi_avg_fn(self.decay))
        self.averaged.update_parameters(self.network)
        self.optimizer.register_step_post_hook(
            lambda *_: self.averaged.update_parameters(self.network)
        )


class EpochAverage(Averaged):
    """Mean of the weights at the ends of the epochs of the second half (Izmailov et al. 2018)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.averaged = AveragedModel(self.network)

    def step_through(self, epoch: int) -> dict[str, float]:
        found = super().step_through(epoch)
        if epoch <= self.settings.epochs // 2 + 1:
            self.averaged.n_averaged.zero_()  # the next update replaces what there is
        self.averaged.update_parameters(self.network)
        return found


class TowardsStart(Training):
    """L2 penalty to the start in place of the origin, for the base (L2-SP, Li et al. 2018).

    Decoupled from the gradient, as AdamW's weight decay.
    """

    strength = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        pairs = [
            (group, own, own.detach().clone())
            for own, depth in self.network.rates()
            if depth is not None
            for group in self.optimizer.param_groups
            if any(own is each for each in group["params"])
        ]
        for group in {id(group): group for group, *_ in pairs}.values():
            group["weight_decay"] = 0.0

        @torch.no_grad()
        def pull(*_: Any) -> None:
            for group, own, start in pairs:
                own.lerp_(start, group["lr"] * self.strength)

        self.optimizer.register_step_post_hook(pull)


class DroppedPaths(Training):
    """Stochastic depth of the trained blocks (Huang et al. 2016), more of it in later ones."""

    rate = 0.2

    def __post_init__(self) -> None:
        upper = self.network.upper
        names = [name for name, _ in upper.named_modules() if name.endswith(".drop_path")]
        for place, name in enumerate(names, start=1):
            upper.set_submodule(name, StochasticDepth(self.rate * place / len(names), "row"))
        super().__post_init__()


class LowRank(Training):
    """Low-rank updates of the base's weights (LoRA, Hu et al. 2022); norms and the head as usual.

    A weight W, as a matrix, is W0 + B A. The optimizer steps A and B, whose gradients follow from
    that of W. Depthwise convolutions, whose matrices have 9 or 25 columns, are trained in full.
    """

    rank = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        self._factors = []
        generator = torch.Generator().manual_seed(self.settings.seed)
        based = {own for own, depth in self.network.rates() if depth is not None}
        for group in self.optimizer.param_groups:
            group["params"] = [
                each
                for own in group["params"]
                for each in (self._divided(own, generator) if self._is_large(own, based) else [own])
            ]
        self.optimizer.register_step_pre_hook(lambda *_: self._differentiate())
        self.optimizer.register_step_post_hook(lambda *_: self._multiply())

    def _is_large(self, own: nn.Parameter, based: set[nn.Parameter]) -> bool:
        return own in based and own.dim() > 1 and own[0].numel() > 4 * self.rank

    def _divided(self, own: nn.Parameter, generator: torch.Generator) -> list[nn.Parameter]:
        rows, columns = own.flatten(1).shape
        bound = columns**-0.5
        drawn = torch.rand(self.rank, columns, generator=generator) * 2 * bound - bound
        left, right = nn.Parameter(own.new_zeros(rows, self.rank)), nn.Parameter(drawn.to(own))
        self._factors.append((own, own.detach().clone(), left, right))
        return [left, right]

    @torch.no_grad()
    def _differentiate(self) -> None:
        for own, _, left, right in self._factors:
            slope = own.grad.flatten(1)
            left.grad, right.grad = slope @ right.T, left.T @ slope

    @torch.no_grad()
    def _multiply(self) -> None:
        for own, start, left, right in self._factors:
            own.copy_(start + (left @ right).reshape(own.shape))
            own.grad = None


class Screened(Training):
    """Scores, after the last epoch, two averages of weights as well.

    ``half way``: of the first and the last (Wortsman et al. 2022). ``mean of epochs``: of those at
    the ends of the epochs of the second half.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self._start, self._ends, self.others = self.weights(), [], {}

    def step_through(self, epoch: int) -> dict[str, float]:
        found = super().step_through(epoch)
        now, last = self.network.tuned_state(), epoch == self.settings.epochs
        if epoch > self.settings.epochs // 2:
            self._ends.append(now)
        for name, states in (("half way", [self._start, now]), ("mean of epochs", self._ends)):
            if last:
                self.network.load_tuned(
                    {
                        key: torch.stack([state[key].double() for state in states]).mean(dim=0)
                        for key in now
                    }
                )
                own = self.choice.metrics(self.scores())
                self.others[name] = {metric: own[metric] for metric in METRICS}
                self.network.load_tuned(now)
        return found


class FreshHead(Training):
    """Starts from a head with random weights, as plain fine-tuning does, not from a fitted one."""

    def __post_init__(self) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(self.settings.seed)
            for module in self.network.head.modules():
                if isinstance(module, nn.Linear):
                    module.reset_parameters()
        super().__post_init__()


def changed(kind: type[Training], **values: float) -> type[Training]:
    """Return a class with other constants."""
    return type(kind.__name__, (kind,), values)


Variant = tuple[dict[str, Any], type[Training]]


def variant(kind: type[Training] = Training, **fields: Any) -> Variant:
    return {**SHARED, **fields}, kind


VARIANTS: dict[str, Variant] = {
    "default": variant(),
    "former default": variant(**FORMER),
    # learning rates
    "rate 2e-4": variant(learning_rate=2e-4),
    "rate 1e-3": variant(learning_rate=1e-3),
    "former rates": variant(**FORMER | {"label_smoothing": 0.1}),
    "slow head": variant(learning_rate=5e-5, backbone_lr_factor=10.0),
    "decay 0.75": variant(layer_decay=0.75),
    "constant": variant(schedule="constant"),
    "no warm-up": variant(warm_up=0.0),
    # how much and how long
    "6 epochs": variant(epochs=6),
    "40 epochs": variant(epochs=40),
    "from blocks.2": variant(unfreeze="blocks.2"),
    "from blocks.4": variant(unfreeze="blocks.4"),
    "from blocks.5": variant(unfreeze="blocks.5"),
    # what is learned from
    "views": variant(augment="standard", views=8),
    "views flip": variant(augment="flip", views=8),
    "views crop": variant(augment="crop", views=8),
    "views trivial": variant(augment="trivial", views=8),
    "views rand": variant(augment="rand", views=8),
    "views erase": variant(augment="erase", views=8),
    "mixup": variant(mix="mixup"),
    "mixup 1": variant(mix="mixup", mix_alpha=1.0),
    "cutmix": variant(mix="cutmix"),
    "hard labels": variant(label_smoothing=0.0),
    # how weights are kept from going far
    "weight decay 0": variant(weight_decay=0.0),
    "weight decay 0.1": variant(weight_decay=0.1),
    "moving norms": variant(freeze_batch_norm=False),
    "fresh head": variant(FreshHead),
    "moving average": variant(MovingAverage),
    "moving average 0.99": variant(changed(MovingAverage, decay=0.99)),
    "epochs averaged": variant(EpochAverage),
    "towards the start": variant(TowardsStart),
    "towards the start 10": variant(changed(TowardsStart, strength=10.0)),
    "dropped paths": variant(DroppedPaths),
    "low rank": variant(LowRank),
}
"""Name to the fields of `FinetuneSettings`, and to the class that trains."""


Fitted = tuple[Head, ImageSet, Cache, dict[str, float]]
"""A head, its images, their cache, and the head's scores on test images."""


def measure(given: argparse.Namespace) -> Iterator[tuple[str, Any]]:
    with tempfile.TemporaryDirectory() as name:
        folder, rows = given.out or Path(name), []
        make, sizes = (screened if given.screen else one), f"{given.images}-{given.train}"
        for seed in given.seeds:
            fitted = cache(partial(start, given, folder, seed))
            for chosen in given.variants:
                file = folder / make.__name__ / f"{given.set}-{sizes}-{seed}-{chosen}.json"
                settings = settings_of(chosen, seed, given.epochs)
                if not is_done(file, settings):
                    write_json(file, make(fitted(), chosen, settings))
                found = read_json(file)
                rows += [found | {"variant": name, **own} for name, own in averages(found).items()]
                kept = ("head", "fine-tuned", "seconds")
                yield f"seed {seed}, {chosen}", {key: found[key] for key in kept}
        gains = compared(rows)
        print_gains(gains)
        yield "variants", gains


def averages(found: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the parts of a run that count as variants: the run, and each average of weights."""
    name, others = found["variant"], found.get("others", {})
    return {name: {}, **{f"{name}, {key}": {"fine-tuned": own} for key, own in others.items()}}


def is_done(file: Path, settings: FinetuneSettings) -> bool:
    """Return whether there is a run with the same settings, which newer versions may add to."""
    noted = read_json(file)["settings"] if file.exists() else {"missing": True}
    return noted.items() <= settings.as_dict().items()


def start(given: argparse.Namespace, folder: Path, seed: int) -> Fitted:
    """Return a head that is fitted on all training images, and its scores on test images."""
    if given.packages:
        images = load(
            given.set,
            given.packages,
            folder / "sets",
            images=given.images,
            seed=seed,
            train=given.train,
        )
    else:
        faces = pictures(folder / f"faces-{seed}", every=given.every)
        images = faces.with_splits(seed=seed)
    store = Cache(folder / "cache")
    extract_features(images, FrozenBase(MODEL, [LAYER], pool="avg"), store)
    head = fit_head(load_features(store, select_features(store, image_set=images.name)))
    return head, images, store, tested(head, store)


def settings_of(chosen: str, seed: int, epochs: int) -> FinetuneSettings:
    """Return the settings of a variant; `epochs` of 0 are its own."""
    own = {"seed": seed, "epochs": epochs} if epochs else {"seed": seed}
    return FinetuneSettings(**VARIANTS[chosen][0] | own)


def one(fitted: Fitted, chosen: str, settings: FinetuneSettings) -> dict[str, Any]:
    """Fine-tune with one variant and one seed, as a user would."""
    head, images, store, before = fitted
    with tuned(VARIANTS[chosen][1], head, images, store, settings) as (done, training):
        own = Cache(done.folder / "cache")
        images.write_csv(own.set_file(images.name))
        fill_split(done.head, own, "test")
        after = tested(done.head, own)
    return {
        **facts(chosen, settings, done),
        "head": before,
        "start": tested(training.head, store),
        "fine-tuned": after,
        "best epoch": done.head.scores["best_epoch"],
    }


def screened(fitted: Fitted, chosen: str, settings: FinetuneSettings) -> dict[str, Any]:
    """Fine-tune on all training images; score the last epoch on the test images.

    No epoch is chosen, so that few images tell more. Log losses are at the best temperature, but
    for that of the head.
    """
    head, images, store, before = fitted
    split = {"train": "train", "test": "val"}
    items = tuple(replace(item, split=split[item.split]) for item in images.items)
    images = replace(images, name=f"{images.name}-screened", items=items, split_seed=None)
    settings = replace(settings, val_share=None, patience=settings.epochs)
    kind = type("Screening", (Screened, VARIANTS[chosen][1]), {})
    with tuned(kind, head, images, store, settings) as (done, training):
        scores = done.head.scores
    last = scores["history"][-1]
    return {
        **facts(chosen, settings, done),
        "head": before,
        "fine-tuned": {"accuracy": last["val_accuracy"], "log_loss": last["val_loss"]},
        "others": training.others,
    }


@contextmanager
def tuned(
    kind: type[Training], head: Head, images: ImageSet, store: Cache, settings: FinetuneSettings
) -> Iterator[tuple[Finetuned, Any]]:
    """Fine-tune in a folder that is removed at the end; yield the result and what trained it."""
    made = []

    def training(*values: Any, **named: Any) -> Training:
        made.append(kind(*values, **named))
        return made[-1]

    with (
        tempfile.TemporaryDirectory() as name,
        mock.patch("bottleneck.finetune.run.Training", training),
    ):
        yield finetune_head(head, images, store, Path(name, "tuned"), settings), made[0]


def facts(chosen: str, settings: FinetuneSettings, done: Finetuned) -> dict[str, Any]:
    """Return what is noted of each run."""
    history = done.head.scores["history"]
    return {
        "variant": chosen,
        "seed": settings.seed,
        "images": {"train": done.train, "val": done.val},
        "seconds": sum(epoch["seconds"] for epoch in history),
        "history": history,
        "settings": settings.as_dict(),
    }


def tested(head: Head, store: Cache) -> dict[str, float]:
    found = evaluate_head(head, features_of(head.source, store, split="test"))
    return {metric: getattr(found, metric) for metric in METRICS}


def compared(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return each variant's gains over the head, and over the default on the same seeds."""
    runs: dict[str, dict[int, Mapping[str, Any]]] = {}
    for row in rows:
        runs.setdefault(row["variant"], {})[row["seed"]] = row
    usual = {seed: row["fine-tuned"] for seed, row in runs.get("default", {}).items()}
    found: dict[str, dict[str, Any]] = {}
    for name, own in runs.items():
        heads = {seed: row["head"] for seed, row in own.items()}
        found[name] = {
            f"{metric} over {what}": gain(own, others, metric)
            for what, others in (("the head", heads), ("default", usual))
            for metric in METRICS
        }
        found[name]["seconds"] = float(np.mean([row["seconds"] for row in own.values()]))
        found[name]["seeds"] = len(own)
    return found


def gain(
    runs: Mapping[int, Mapping[str, Any]], others: Mapping[int, Mapping[str, float]], metric: str
) -> tuple[float, float, float]:
    """Return the mean of paired differences and its interval."""
    pairs = [(row["fine-tuned"], others[seed]) for seed, row in runs.items() if seed in others]
    return interval(np.array([one[metric] - other[metric] for one, other in pairs] or [np.nan]))


def print_gains(gains: Mapping[str, Mapping[str, Any]]) -> None:
    """Print a table of the variants, the most accurate first."""
    columns = [f"{metric} over {what}" for what in ("the head", "default") for metric in METRICS]
    print(f"{'':28}", *(f"{column.replace('_', ' '):>24}" for column in columns), "  seconds")
    for name in sorted(gains, key=lambda name: -gains[name][columns[0]][0]):
        mean, *_ = zip(*(gains[name][column] for column in columns), strict=True)
        half = [(gains[name][column][2] - gains[name][column][1]) / 2 for column in columns]
        cells = (f"{one:+.3f} ± {other:.3f}" for one, other in zip(mean, half, strict=True))
        print(f"{name:28}", *(f"{cell:>24}" for cell in cells), f"{gains[name]['seconds']:9.1f}")


if __name__ == "__main__":
    run(
        measure,
        set=("clipart", "clipart"),
        packages=(None, None),
        out=(None, None),
        images=(600, 600),
        train=(0, 0),
        screen=(0, 0),
        every=(1, 5),
        seeds=((0, 1), (0,)),
        epochs=(0, 1),
        variants=(tuple(VARIANTS), ("default", "low rank", "moving average")),
    )

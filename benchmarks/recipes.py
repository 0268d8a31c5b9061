"""Which recipe of fine-tuning gains? ``benchmarks/recipes.py``.

Screens variants of the recipe from the cache on one of the sets of ``sets.py`` (``--set clipart
--packages FOLDER``, the folder of its package's files), or on the demo's faces where no folder is
given. For each seed, with splits of its own, a head is fitted on features of EfficientNet-Lite0 of
all training images; each of ``--variants`` (a table below, by default all) is fine-tuned from it,
on cached activations, and both are scored on the test images, as a user would by ``bottleneck
evaluate``.

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
from bottleneck.finetune import fill_split, finetune_head
from bottleneck.finetune.loop import Training
from common import run
from plateau import interval
from precision import pictures
from sets import load

MODEL, LAYER = "efficientnet_lite0", "penultimate"
SHARED: dict[str, Any] = {"unfreeze": "blocks.5", "from_cache": True, "val_share": 0.15}
"""Of all variants that do not say otherwise."""
VIEWS: dict[str, Any] = {"augment": "standard", "views": 8}
FAST: dict[str, Any] = {"backbone_lr_factor": 0.5, "layer_decay": 1.0}
METRICS = ("accuracy", "log_loss")


class Averaged(Training):
    """Scores, and keeps, an average of the weights of many steps.

    Subclasses make it and update it.
    """

    averaged: AveragedModel

    def scores(self) -> np.ndarray:
        with self._average():
            return super().scores()

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
    # learning rates
    "rate 3e-4": variant(learning_rate=3e-4),
    "rate 3e-3": variant(learning_rate=3e-3),
    "backbone 0.5": variant(backbone_lr_factor=0.5),
    "backbone 1": variant(backbone_lr_factor=1.0),
    "decay 0.75": variant(layer_decay=0.75),
    "decay 1": variant(layer_decay=1.0),
    "fast base": variant(**FAST),
    "fast base, decay 0.75": variant(backbone_lr_factor=0.5, layer_decay=0.75),
    "constant": variant(schedule="constant"),
    "no warm-up": variant(warm_up=0.0),
    # how much and how long
    "10 epochs": variant(epochs=10),
    "40 epochs": variant(epochs=40, patience=40),
    "patient": variant(patience=20),
    "from blocks.6": variant(unfreeze="blocks.6"),
    "from blocks.4": variant(unfreeze="blocks.4"),
    "from blocks.3": variant(unfreeze="blocks.3"),
    "fast base, from blocks.4": variant(unfreeze="blocks.4", **FAST),
    "fast base, from blocks.3": variant(unfreeze="blocks.3", **FAST),
    # what is learned from
    "views": variant(**VIEWS),
    "4 views": variant(augment="standard", views=4),
    "views flip": variant(augment="flip", views=8),
    "views crop": variant(augment="crop", views=8),
    "views trivial": variant(augment="trivial", views=8),
    "views rand": variant(augment="rand", views=8),
    "views erase": variant(augment="erase", views=8),
    "mixup": variant(mix="mixup"),
    "mixup 1": variant(mix="mixup", mix_alpha=1.0),
    "cutmix": variant(mix="cutmix"),
    "smoothing": variant(label_smoothing=0.1),
    "held out 0.1": variant(val_share=0.1),
    "held out 0.25": variant(val_share=0.25),
    # how weights are kept from going far
    "weight decay 0": variant(weight_decay=0.0),
    "weight decay 0.1": variant(weight_decay=0.1),
    "moving norms": variant(freeze_batch_norm=False),
    "fresh head": variant(FreshHead),
    "moving average": variant(MovingAverage),
    "moving average 0.99": variant(changed(MovingAverage, decay=0.99)),
    "epochs averaged": variant(EpochAverage),
    "epochs averaged, constant": variant(EpochAverage, schedule="constant"),
    "towards the start": variant(TowardsStart),
    "towards the start 10": variant(changed(TowardsStart, strength=10.0)),
    "dropped paths": variant(DroppedPaths),
    "low rank": variant(LowRank, backbone_lr_factor=1.0, layer_decay=1.0),
    # together
    "views, smoothing": variant(**VIEWS, label_smoothing=0.1),
    "plateau": variant(**VIEWS, **FAST, label_smoothing=0.1),
    "plateau, 40 epochs": variant(**VIEWS, **FAST, label_smoothing=0.1, epochs=40, patience=40),
    "plateau, moving average": variant(MovingAverage, **VIEWS, **FAST, label_smoothing=0.1),
    "plateau, epochs averaged": variant(EpochAverage, **VIEWS, **FAST, label_smoothing=0.1),
    "plateau, towards the start": variant(TowardsStart, **VIEWS, **FAST, label_smoothing=0.1),
    "plateau, dropped paths": variant(DroppedPaths, **VIEWS, **FAST, label_smoothing=0.1),
    "plateau, mixup": variant(**VIEWS, **FAST, mix="mixup"),
    "plateau, cutmix": variant(**VIEWS, **FAST, mix="cutmix"),
    "plateau, from blocks.4": variant(**VIEWS, **FAST, label_smoothing=0.1, unfreeze="blocks.4"),
    "plateau, from blocks.3": variant(**VIEWS, **FAST, label_smoothing=0.1, unfreeze="blocks.3"),
}
"""Name to the fields of `FinetuneSettings`, and to the class that trains."""


def measure(given: argparse.Namespace) -> Iterator[tuple[str, Any]]:
    with tempfile.TemporaryDirectory() as name:
        folder, rows = given.out or Path(name), []
        for seed in given.seeds:
            fitted = cache(partial(start, given, folder, seed))
            for chosen in given.variants:
                file = folder / "runs" / f"{given.set}-{given.images}-{seed}-{chosen}.json"
                settings = settings_of(chosen, seed, given.epochs)
                if not is_done(file, settings):
                    write_json(file, one(fitted(), chosen, settings))
                rows.append(read_json(file))
                kept = ("head", "fine-tuned", "best epoch", "seconds")
                yield f"seed {seed}, {chosen}", {key: rows[-1][key] for key in kept}
        gains = compared(rows)
        print_gains(gains)
        yield "variants", gains


def is_done(file: Path, settings: FinetuneSettings) -> bool:
    """Return whether there is a run with the same settings, which newer versions may add to."""
    noted = read_json(file)["settings"] if file.exists() else {"missing": True}
    return noted.items() <= settings.as_dict().items()


def start(
    given: argparse.Namespace, folder: Path, seed: int
) -> tuple[Head, ImageSet, Cache, dict[str, float]]:
    """Return a head that is fitted on all training images, and its scores on test images."""
    if given.packages:
        images = load(given.set, given.packages, folder / "sets", images=given.images, seed=seed)
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


def one(
    fitted: tuple[Head, ImageSet, Cache, dict[str, float]], chosen: str, settings: FinetuneSettings
) -> dict[str, Any]:
    """Fine-tune with one variant and one seed."""
    head, images, store, before = fitted
    kind = VARIANTS[chosen][1]
    made = []

    def training(*values: Any, **named: Any) -> Training:
        made.append(kind(*values, **named))
        return made[-1]

    with (
        tempfile.TemporaryDirectory() as name,
        mock.patch("bottleneck.finetune.run.Training", training),
    ):
        done = finetune_head(head, images, store, Path(name, "tuned"), settings)
        own = Cache(Path(name, "cache"))
        images.write_csv(own.set_file(images.name))
        fill_split(done.head, own, "test")
        after = tested(done.head, own)
    history = done.head.scores["history"]
    return {
        "variant": chosen,
        "seed": settings.seed,
        "images": {"train": done.train, "val": done.val},
        "head": before,
        "start": tested(made[0].head, store),
        "fine-tuned": after,
        "best epoch": done.head.scores["best_epoch"],
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
        every=(1, 5),
        seeds=((0, 1), (0,)),
        epochs=(0, 1),
        variants=(tuple(VARIANTS), ("default", "low rank")),
    )

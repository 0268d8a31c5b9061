"""Is fine-tuning from the cache as good as a plain one, in less time? ``benchmarks/plain.py``.

On sets of ``sets.py`` (``--set clipart letters --packages FOLDER``, the folder with their packages'
files in folders of these names, or that of the one set), or on the demo's faces where no folder is
given. For each seed, with splits of its own, the same training, validation and test images, and the
same number of epochs with 32 images a step, in float32, from the same weights of
EfficientNet-Lite0:

- ``ours``: features are extracted, a head is fitted, the activations below ``--unfreeze`` are
  cached, and the default recipe trains what is above them. The cache is empty before.
- ``timm 1e-3``, ``timm 3e-4``: as timm's ``train.py``: all layers and a fresh head, AdamW with this
  rate and a weight decay of 0.05, a cosine after a warm-up of an epoch, label smoothing of 0.1,
  crops of 8% to 100% (RandomResizedCrop) and flips, drawn anew in each epoch. The epoch with the
  best validation accuracy is kept.
- ``fastai``: as fastai's ``fine_tune``: its head of two layers on the concatenated poolings, which
  is trained for one epoch on a frozen body (but for batch normalization), and then all layers with
  discriminative rates from 1e-5 to 1e-3, with one cycle each; crops of 35% to 100% and flips. The
  last epoch is kept.

All score the validation images after each epoch, as these scripts do. A plain way decodes files in
as many processes as there are cores. Timed is everything from the files to the trained network;
scoring the test images is not, but our extraction includes them. From the cache means without the
extraction and without the filling of the cache, where a plain way still begins at the files.

``our head`` is the head that ours starts from, without fine-tuning.

Each run is written into ``--out`` as it ends, so that the same command goes on where it stopped, or
adds seeds and ways. Figures are those of each run, and of each way its accuracy, by how much ours
is better (the paired difference with its 95% interval, Student's t over the seeds), its seconds,
and how many times as long as ours it takes, from the files and from the cache.
"""

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import timm
import torch
from PIL import Image
from timm.data import create_transform
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from torch import nn
from torch.utils.data import DataLoader, Dataset

from bottleneck import (
    Cache,
    FinetuneSettings,
    FrozenBase,
    ImageSet,
    evaluate_head,
    extract_features,
    features_of,
    fit_head,
    load_features,
    select_features,
)
from bottleneck.bases import Transform, find_model
from bottleneck.bases.weights import load_weights
from bottleneck.files import read_json, write_json
from bottleneck.finetune import fill_split, finetune_head
from bottleneck.images import ImageItem, decode
from common import Tables, run
from plateau import interval
from precision import pictures
from sets import SETS, load

MODEL, LAYER = "efficientnet_lite0", "penultimate"
BATCH = 32
VAL_SHARE = 0.15
FACES = "faces"
HEAD = "our head"
FROM_FILES, FROM_CACHE = "seconds from the files", "seconds from the cache"
RATIOS = {
    FROM_FILES: "its time by ours from the files",
    FROM_CACHE: "its time by ours from the cache",
}
"""Our seconds to the name of the ratio of a plain way's seconds from the files to them."""


def measure(given: argparse.Namespace) -> Iterator[tuple[str, Any]]:
    with tempfile.TemporaryDirectory() as place:
        folder = given.out or Path(place)
        for name in given.set if given.packages else (FACES,):
            rows = []
            for seed in given.seeds:
                images = split(name, seed, folder, given)
                for way in given.ways:
                    file = folder / "plain" / f"{images.name}-{len(images.items)}-{way}.json"
                    found = one(images, way, seed, file, given)
                    own = {way: found, **({HEAD: found.pop(HEAD)} if HEAD in found else {})}
                    rows += [{"seed": seed, "way": each, **own[each]} for each in own]
                    yield f"{name}, seed {seed}, {way}", found
            yield name, compared(rows)


def one(
    images: ImageSet, way: str, seed: int, file: Path, given: argparse.Namespace
) -> dict[str, Any]:
    """Return the figures of a run, which are read where it was made before."""
    settings = FinetuneSettings(given.unfreeze, from_cache=True, epochs=given.epochs, seed=seed)
    known = settings.as_dict()
    if way != "ours":  # which do not depend on our defaults
        known = {field: known[field] for field in ("epochs", "seed")}
    if not is_done(file, known):
        write_json(file, {**WAYS[way](images, settings), "settings": known})
    return {key: value for key, value in read_json(file).items() if key != "settings"}


def is_done(file: Path, settings: dict[str, Any]) -> bool:
    """Return whether there is a run with the same settings, which newer versions may add to."""
    noted = read_json(file)["settings"] if file.exists() else {"missing": True}
    return noted.items() <= settings.items()


def split(name: str, seed: int, folder: Path, given: argparse.Namespace) -> ImageSet:
    """Return a set with training, validation and test images."""
    if given.packages:
        source = given.packages / name if (given.packages / name).is_dir() else given.packages
        sizes = {name: getattr(given, name) for name in ("images", "train", "test_share")}
        images = load(name, source, folder / "sets", seed=seed, **sizes)
    else:
        place = folder / f"faces-{seed}"
        shutil.rmtree(place, ignore_errors=True)  # of an earlier run
        folder.mkdir(parents=True, exist_ok=True)
        images = pictures(place, every=given.every).with_splits(seed=seed)
    train = tuple(item for item in images.items if item.split == "train")
    parts = replace(images, items=train).with_splits(test_share=VAL_SHARE, seed=seed).items
    names = {"train": "train", "test": "val"}
    divided = tuple(replace(item, split=names[item.split]) for item in parts)
    tested = tuple(item for item in images.items if item.split == "test")
    return replace(images, items=divided + tested, split_seed=None)


def ours(images: ImageSet, settings: FinetuneSettings) -> dict[str, Any]:
    """Return the accuracy and the seconds of the default recipe, from an empty cache on."""
    filling = Filling()
    with tempfile.TemporaryDirectory() as name:
        store, folder = Cache(Path(name, "cache")), Path(name, "tuned")
        began = time.monotonic()
        extract_features(images, FrozenBase(MODEL, [LAYER], pool="avg"), store)
        extracted = time.monotonic()
        head = fit_head(load_features(store, select_features(store, image_set=images.name)))
        fitted = time.monotonic()
        done = finetune_head(head, images, store, folder, settings, progress=filling)
        ended = time.monotonic()
        fill_split(done.head, store, "test")
        before, after = (
            evaluate_head(each, features_of(each.source, store, split="test")).accuracy
            for each in (head, done.head)
        )
    return {
        HEAD: {"accuracy": before, FROM_FILES: fitted - began},
        "accuracy": after,
        FROM_FILES: ended - began,
        FROM_CACHE: ended - extracted - filling.seconds,
        "best epoch": done.head.scores["best_epoch"],
    }


class Filling:
    """How long the filling of the cache took, as its progress tells."""

    def __init__(self) -> None:
        self._began, self.seconds = 0.0, 0.0

    def __call__(self, stage: str, _done: int, _total: int, **_facts: Any) -> None:
        if stage == "extract":
            self._began = self._began or time.monotonic()
            self.seconds = time.monotonic() - self._began


@dataclass(frozen=True)
class Phase:
    """Some epochs with one optimizer.

    Attributes
    ----------
    epochs : int
        Their number.
    optimizer : torch.optim.Optimizer
        With the rates of the first step.
    advance : callable
        Called after each step with the number of steps so far; sets the rates of the next.
    """

    epochs: int
    optimizer: torch.optim.Optimizer
    advance: Callable[[int], object]


@dataclass(frozen=True)
class Plain:
    """Plain fine-tuning from image files.

    Attributes
    ----------
    prepare : callable
        Replaces the head of a network of timm's, given the number of classes.
    phases : callable
        Yields the phases, given the network, the number of epochs and of steps in each.
    scale : tuple of float
        The smallest and the largest share of an image in a crop.
    smoothing : float
        Label smoothing.
    best : bool
        Whether the epoch with the best validation accuracy is kept, or the last.
    """

    prepare: Callable[[nn.Module, int], nn.Module]
    phases: Callable[[nn.Module, int, int], Iterator[Phase]]
    scale: tuple[float, float]
    smoothing: float
    best: bool

    def __call__(self, images: ImageSet, settings: FinetuneSettings) -> dict[str, float]:
        """Return the accuracy on test images and the seconds of the training."""
        began = time.monotonic()
        torch.manual_seed(settings.seed)
        _, weights = load_weights(find_model(MODEL), "default")
        network = timm.create_model(f"tf_{MODEL}", pretrained=False)
        network.load_state_dict(weights.load())
        network = self.prepare(network, len(images.classes)).to(memory_format=torch.channels_last)
        train, val, test = (
            loader(images, name, weights.transform, self.scale) for name in ("train", "val", "test")
        )
        kept, best, number = {}, 0.0, 0
        for phase in self.phases(network, settings.epochs, len(train)):
            steps = 0
            for _ in range(phase.epochs):
                network.train()
                for pixels, codes in train:
                    scores = network(pixels.contiguous(memory_format=torch.channels_last))
                    loss = nn.functional.cross_entropy(
                        scores, codes, label_smoothing=self.smoothing
                    )
                    phase.optimizer.zero_grad()
                    loss.backward()
                    phase.optimizer.step()
                    steps += 1
                    phase.advance(steps)
                number += 1
                accuracy = scored(network, val)
                if accuracy > best or not self.best:
                    kept, best, best_epoch = copied(network), accuracy, number
        ended = time.monotonic()
        network.load_state_dict(kept)
        return {
            "accuracy": scored(network, test),
            FROM_FILES: ended - began,
            "best epoch": best_epoch,
        }


def copied(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: each.clone() for name, each in network.state_dict().items()}


@torch.inference_mode()
def scored(network: nn.Module, batches: DataLoader) -> float:
    """Return the accuracy."""
    network.eval()
    right = [(network(pixels).argmax(1) == codes) for pixels, codes in batches]
    return float(torch.cat(right).float().mean())


class Files(Dataset):
    """Decodes, and augments, an image file whenever it is asked for."""

    def __init__(self, items: Sequence[ImageItem], classes: Sequence[str], transform: Any) -> None:
        self._items, self._classes, self._transform = items, list(classes), transform

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, place: int) -> tuple[torch.Tensor, int]:
        item = self._items[place]
        image = Image.fromarray(decode(Path(item.path).read_bytes()))
        return self._transform(image), self._classes.index(item.label)


def loader(
    images: ImageSet, name: str, transform: Transform, scale: tuple[float, float]
) -> DataLoader:
    """Return the batches of a split, augmented and in another order each time if it is train."""
    training = name == "train"
    made = create_transform(
        (3, *transform.crop),
        is_training=training,
        scale=scale,
        color_jitter=None,
        interpolation=transform.interpolation,
        mean=transform.mean,
        std=transform.std,
        crop_pct=transform.crop[0] / transform.resize[0],
    )
    items = [item for item in images.items if item.split == name]
    return DataLoader(
        Files(items, images.classes, made),
        BATCH,
        shuffle=training,
        num_workers=joblib.cpu_count(),
        drop_last=training and len(items) % BATCH == 1,  # of which there is no variance
    )


def with_linear_head(network: nn.Module, classes: int) -> nn.Module:
    network.reset_classifier(classes)
    return network


def timm_phases(rate: float) -> Callable[[nn.Module, int, int], Iterator[Phase]]:
    def phases(network: nn.Module, epochs: int, steps: int) -> Iterator[Phase]:
        optimizer = create_optimizer_v2(network, "adamw", lr=rate, weight_decay=0.05)
        schedule, _ = create_scheduler_v2(
            optimizer,
            num_epochs=epochs,
            warmup_epochs=min(1, epochs - 1),
            step_on_epochs=False,
            updates_per_epoch=steps,
        )
        yield Phase(epochs, optimizer, schedule.step_update)

    return phases


class Pooled(nn.Module):
    """Mean and maximum of each channel, side by side (fastai's AdaptiveConcatPool2d)."""

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return torch.cat([maps.amax((2, 3)), maps.mean((2, 3))], dim=1)


class BodyAndHead(nn.Module):
    """A network of timm's with the head that fastai's vision_learner makes."""

    def __init__(self, body: nn.Module, classes: int) -> None:
        super().__init__()
        body.reset_classifier(0)
        width, hidden = 2 * body.num_features, 512
        self.body = body
        self.head = nn.Sequential(
            Pooled(),
            nn.BatchNorm1d(width),
            nn.Dropout(0.25),
            nn.Linear(width, hidden, bias=False),
            nn.ReLU(),
            nn.BatchNorm1d(hidden),
            nn.Dropout(0.5),
            nn.Linear(hidden, classes, bias=False),
        )

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.head(self.body.forward_features(pixels))

    def groups(self) -> list[list[nn.Parameter]]:
        """Return the parameters of the two halves of the body, and of the head."""
        middle = f"blocks.{len(self.body.blocks) // 2}"
        halves: tuple[list, list] = ([], [])
        for name, each in self.body.named_parameters():
            early = not name.startswith(("blocks", "conv_head", "bn2")) or (
                name.startswith("blocks") and name < middle
            )
            halves[not early].append(each)
        return [*halves, list(self.head.parameters())]


def fastai_phases(network: BodyAndHead, epochs: int, steps: int) -> Iterator[Phase]:
    """Yield one epoch with a frozen body, and the others; `Learner.fine_tune` and its defaults."""
    normal = {
        id(each)
        for module in network.body.modules()
        if isinstance(module, nn.BatchNorm2d)
        for each in module.parameters(recurse=False)
    }
    for each in network.body.parameters():
        each.requires_grad_(requires_grad=id(each) in normal)
    yield one_cycle(network, 1, steps, rates=(2e-3, 2e-3, 2e-3), rising=0.99, start=25.0)
    network.requires_grad_(requires_grad=True)
    if epochs > 1:
        yield one_cycle(network, epochs - 1, steps, rates=(1e-5, 1e-4, 1e-3), rising=0.3, start=5.0)


def one_cycle(
    network: BodyAndHead,
    epochs: int,
    steps: int,
    *,
    rates: Sequence[float],
    rising: float,
    start: float,
) -> Phase:
    """Return a phase with one cycle of the rates and of the momentum (Smith 2018)."""
    groups = [
        {"params": [each for each in own if each.requires_grad], "lr": rate}
        for own, rate in zip(network.groups(), rates, strict=True)
    ]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.99), eps=1e-5, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        list(rates),
        total_steps=epochs * steps + 1,
        pct_start=rising,
        div_factor=start,
        final_div_factor=1e5 / start,
    )
    return Phase(epochs, optimizer, lambda _: schedule.step())


def timm_way(rate: float) -> Plain:
    return Plain(with_linear_head, timm_phases(rate), (0.08, 1.0), smoothing=0.1, best=True)


WAYS: dict[str, Callable[[ImageSet, FinetuneSettings], dict[str, Any]]] = {
    "ours": ours,
    "timm 1e-3": timm_way(1e-3),
    "timm 3e-4": timm_way(3e-4),
    "fastai": Plain(BodyAndHead, fastai_phases, (0.35, 1.0), smoothing=0.0, best=False),
}


def compared(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return accuracies and times, and by how much ours is better and faster."""
    found = {}
    known = {row["seed"]: row for row in rows if row["way"] == "ours"}
    for way in dict.fromkeys(row["way"] for row in rows):
        own = [row for row in rows if row["way"] == way]
        found[way] = {
            "accuracy": float(np.mean([row["accuracy"] for row in own])),
            FROM_FILES: float(np.mean([row[FROM_FILES] for row in own])),
        }
        if way == "ours":
            found[way][FROM_CACHE] = float(np.mean([row[FROM_CACHE] for row in own]))
        elif pairs := [(row, known[row["seed"]]) for row in own if row["seed"] in known]:
            gains = np.array([mine["accuracy"] - row["accuracy"] for row, mine in pairs])
            found[way]["ours less it"] = interval(gains)
            for kind, ratio in RATIOS.items():
                times = [(row[FROM_FILES], mine[kind]) for row, mine in pairs]
                found[way][ratio] = float(np.divide(*np.sum(times, axis=0)))
    return found


def tables(found: dict[str, Any]) -> Tables:
    head = ("", "accuracy", "ours less it", "seconds", "by ours", "by ours from the cache")
    sets = {name: ways for name, ways in found.items() if ", seed " not in name}
    return {
        "plain": [
            head,
            *(row_of(f"{name}, {way}", each) for name in sets for way, each in sets[name].items()),
        ]
    }


def row_of(name: str, each: dict[str, Any]) -> tuple[str, ...]:
    seconds = f"{each[FROM_FILES]:.0f}"
    if FROM_CACHE in each:
        seconds += f", {each[FROM_CACHE]:.0f} from the cache"
    gain = ""
    if known := each.get("ours less it"):
        mean, low, high = known
        gain = f"{mean:+.3f}" + ("" if np.isnan(low) else f" ({low:+.3f} to {high:+.3f})")
    ratios = [f"{each[key]:.2f}" if key in each else "" for key in RATIOS.values()]
    return name, f"{each['accuracy']:.3f}", gain, seconds, *ratios


if __name__ == "__main__":
    run(
        measure,
        tables,
        out=(None, None),
        set=(tuple(SETS), (FACES,)),
        packages=(None, None),
        images=(2400, 2400),
        train=(0, 0),
        test_share=(0.5, 0.5),
        every=(1, 5),
        seeds=((0, 1, 2, 3, 4), (0,)),
        ways=(tuple(WAYS), tuple(WAYS)),
        unfreeze=("blocks.5", "blocks.5"),
        epochs=(20, 2),
    )

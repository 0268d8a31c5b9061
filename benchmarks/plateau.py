"""Does the verdict hold? ``benchmarks/plateau.py``.

On 150 images from each of the eight largest folders of Debian's openclipart-png (``--clipart`` and
its folder ``png``), or on the demo's 200 faces where it is not given: what `advise` says of
features of EfficientNet-Lite0, and then, for each seed with a split of its own, the accuracy on
test images of

- logistic regression on raw pixels, and a small convolutional network trained from scratch;
- a head on the last features, one on these and eight cached views of each training image, and the
  network fine-tuned from this head on, on cached activations and views: from the layer up that the
  verdict names, or from ``blocks.5`` where it names none.

Figures are those of each seed, the means with 95% intervals (Student's t over the seeds, each with
other splits), and the paired gain of each step.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import joblib
import numpy as np
from scipy.stats import t as student

from baselines import raw_pixels, small_convnet
from bottleneck import (
    Cache,
    FinetuneSettings,
    FrozenBase,
    Head,
    ImageSet,
    evaluate_head,
    extract_features,
    features_of,
    load_features,
    select_features,
    select_layers,
)
from bottleneck.advise import Verdict, advise_on
from bottleneck.finetune import finetune_head
from bottleneck.heads import fit_rows
from common import Tables, run
from precision import pictures

MODEL, LAYER, UNFROZEN = "efficientnet_lite0", "penultimate", "blocks.5"
EARLIER = ("blocks.2", "blocks.4", "blocks.5")
VIEWS, AUGMENT = 8, "standard"
SETTINGS: dict[str, Any] = {
    "augment": AUGMENT,
    "views": VIEWS,
    "learning_rate": 1e-3,
    "backbone_lr_factor": 0.5,
    "layer_decay": 1.0,
    "label_smoothing": 0.1,
}
"""Of some that were tried, those with the lowest loss on the first seed's validation images."""
STEPS = ("raw pixels", "small convnet", "head", "head with views", "fine-tuned")
SHARES = {"test": 0.2, "val": 0.15}


def measure(given: argparse.Namespace) -> Iterator[tuple[str, Any]]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images = pictures(folder / "images", given.clipart, every=given.every)
        cache = Cache(folder / "cache")
        verdict = judged(split(images, 0), cache, given)
        yield "verdict", {"images": len(images.items), "sentence": verdict.sentence}
        settings = FinetuneSettings(
            verdict.layer or UNFROZEN,
            epochs=given.epochs,
            patience=given.epochs,
            from_cache=True,
            **SETTINGS,
        )
        yield "settings", settings.as_dict()
        rows = []
        for seed in range(given.seeds):
            own = replace(settings, seed=seed)
            rows.append(one_seed(split(images, seed), cache, folder / str(seed), own))
            yield f"seed {seed}", rows[-1]
        yield from summary(rows).items()


def split(images: ImageSet, seed: int) -> ImageSet:
    """Hold out images for testing, and of the others some for validation, class by class."""
    generator = np.random.default_rng(seed)
    items = []
    for label in images.classes:
        own = [item for item in images.items if item.label == label]
        order = generator.permutation(len(own))
        ends = np.cumsum([round(share * len(own)) for share in SHARES.values()])
        for place, number in enumerate(order):
            names = [name for name, end in zip(SHARES, ends, strict=True) if place < end]
            items.append(replace(own[number], split=(names or ["train"])[0]))
    kept = {item.digest: item for item in items}.values()  # the same bytes stand in one split only
    return replace(images, name=f"{images.name}-{seed}", items=tuple(kept), split_seed=None)


def one_seed(images: ImageSet, cache: Cache, folder: Path, settings: FinetuneSettings) -> dict:
    """Return the accuracies of one seed."""
    train, val, test = (
        [item for item in images.items if item.split == name] for name in ("train", "val", "test")
    )
    found: dict = {"seed": settings.seed, "train": len(train), "val": len(val), "test": len(test)}
    found["raw pixels"] = raw_pixels(train, val, test)
    found["small convnet"] = small_convnet(
        train, val, test, seed=settings.seed, epochs=4 * settings.epochs
    )
    extract_features(images, FrozenBase(MODEL, [LAYER], pool="avg"), cache)
    head = fitted(cache, images)
    found["head"] = tested(head, cache)
    base = FrozenBase(MODEL, [LAYER], pool="avg")
    extract_features(images, base, cache, views=VIEWS, augment=AUGMENT)
    head = fitted(cache, images)
    found["head with views"] = tested(head, cache)
    started = time.monotonic()
    tuned = finetune_head(head, images, cache, folder, settings)
    found["seconds of fine-tuning"] = time.monotonic() - started
    extract_features(images, FrozenBase(str(folder)), cache)
    found["fine-tuned"] = tested(tuned.head, cache)
    found["best epoch"] = tuned.head.scores["best_epoch"]
    return found


def judged(images: ImageSet, cache: Cache, given: argparse.Namespace) -> Verdict:
    """Return what `advise` says; the validation images are trained on as well, in folds."""
    items = [
        replace(item, split="train" if item.split == "val" else item.split) for item in images.items
    ]
    folded = replace(images, name=f"{images.name}-folds", items=tuple(items))
    extract_features(folded, FrozenBase(MODEL, [*EARLIER, LAYER], pool="avg"), cache)
    with joblib.parallel_config("loky", n_jobs=given.jobs):
        advice = advise_on(
            cache, select_layers(cache, image_set=folded.name), repeats=given.repeats
        )
    return advice.verdict


def fitted(cache: Cache, images: ImageSet) -> Head:
    selection = select_features(cache, layer=LAYER, image_set=images.name)
    features = load_features(cache, selection)
    train, val = features.training(), features.split("val")
    return fit_rows(
        train.X,
        train.labels,
        groups=train.digests,
        plain=train.views == 0,
        validation=(val.X, val.labels),
        source=features.provenance,
    )


def tested(head: Head, cache: Cache) -> float:
    return evaluate_head(head, features_of(head.source, cache)).accuracy


def summary(rows: Sequence[dict]) -> dict:
    """Return means and paired gains with their intervals."""
    accuracies = {step: np.array([row[step] for row in rows]) for step in STEPS}
    means = {step: interval(values) for step, values in accuracies.items()}
    gains = {
        f"{after} less {before}": interval(accuracies[after] - accuracies[before])
        for before, after in [*pairwise(STEPS[2:]), (STEPS[2], STEPS[4])]
    }
    return {"accuracy": means, "gain": gains}


def interval(values: np.ndarray) -> tuple[float, float, float]:
    mean = float(values.mean())
    if len(values) < 2:
        return mean, float("nan"), float("nan")
    half = student.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return mean, float(mean - half), float(mean + half)


def tables(found: dict[str, Any]) -> Tables:
    paired = {f"paired: {name}": values for name, values in found["gain"].items()}
    rows = [
        (name, f"{mean:.3f}", f"{low:.3f} to {high:.3f}")
        for name, (mean, low, high) in {**found["accuracy"], **paired}.items()
    ]
    return {"plateau": [("", "mean", "interval"), *rows]}


if __name__ == "__main__":
    run(
        measure,
        tables,
        clipart=(None, None),
        seeds=(5, 1),
        epochs=(10, 1),
        repeats=(5, 1),
        jobs=(-1, 1),
        every=(1, 5),
    )

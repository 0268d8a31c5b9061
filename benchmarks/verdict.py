"""Is the verdict right? ``benchmarks/verdict.py``.

For image sets of `sets`, bases and numbers of training images: what `advise` says of the training
images, and what fine-tuning from the cache then gains over the head on test images, which neither
has seen. Fine-tuning starts from the layer that the verdict names, or from ``blocks.5``. The truth
of a case is whether the gain lies beyond its 95% interval, over groups of test images. The claim is
whether `advise` expects a gain. Where it does not, most verdicts say nothing of fine-tuning; who
reads one does not fine-tune then, and that is what is scored: right if nothing was gained. The
threshold was chosen with cases of EfficientNet-Lite0 only, so that the other bases are counted
apart.

Sets are those whose package is in the folder ``--packages``, under the name of the set (see
``sets.py``); without it, the demo's faces. With ``--json FILE``, cases that are in the file are not
run again. ``--advice FOLDER`` keeps what `advise` found in each. Cases that `advise` refuses, as
there are too few images of a class, are told and left out.
"""

import argparse
import csv
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import joblib
import numpy as np

from bottleneck import (
    Cache,
    FinetuneSettings,
    FrozenBase,
    Head,
    ImageSet,
    extract_features,
    features_of,
    fit_head,
    load_features,
    select_features,
    select_layers,
)
from bottleneck.advise import advise_on
from bottleneck.errors import DataError
from bottleneck.finetune import finetune_head
from bottleneck.finetune.result import fill_split
from bottleneck.records import write_record
from common import Tables, run
from precision import pictures
from sets import SETS, load

LAYER, UNFROZEN = "penultimate", "blocks.5"
EARLIER = ("blocks.2", "blocks.4", "blocks.5")
BASES = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")
FACES = "faces"


def measure(given: argparse.Namespace) -> Iterator[tuple[str, Any]]:
    known = {}
    if given.json and given.json.exists():
        known = json.loads(given.json.read_text())["figures"]
        yield from known.items()
    for name in given.sets:
        for model in given.bases:
            with tempfile.TemporaryDirectory() as place:
                for size in given.sizes:
                    case = f"{name}, {model}, {size or 'all'}"
                    if case in known:
                        continue
                    try:
                        yield case, judged(some(name, size, Path(place), given), model, given)
                    except DataError as error:
                        print(f"{case}: {error}")


def some(name: str, size: int, place: Path, given: argparse.Namespace) -> tuple[ImageSet, Path]:
    """Return a set with so many training images, 0 for all; and the folder of its cache."""
    if given.packages:
        source = given.packages / name
        sizes = {"images": given.images, "train": size, "test_share": given.test_share}
        return load(name, source, place / "set", **sizes), place
    folder = place / f"faces-{size}"
    return pictures(folder, every=given.every).with_splits(test_share=0.3), place


def judged(chosen: tuple[ImageSet, Path], model: str, given: argparse.Namespace) -> dict[str, Any]:
    """Return the advice on a set, and what fine-tuning gains."""
    (images, place), started = chosen, time.monotonic()
    cache = Cache(place / "cache")
    extract_features(images, FrozenBase(model, [*EARLIER, LAYER], pool="avg"), cache)
    with joblib.parallel_config("loky", n_jobs=given.jobs):
        layers = select_layers(cache, image_set=images.name)
        advice = advise_on(cache, layers, repeats=given.repeats)
    head = fit_head(load_features(cache, select_features(cache, layer=LAYER)), advice.clf)
    advised = time.monotonic()
    if given.advice:
        write_record(given.advice / f"{images.name}-{model}.json", advice)
    settings = FinetuneSettings(
        advice.verdict.layer or UNFROZEN,
        epochs=given.epochs,
        from_cache=True,
        val_share=0.2,
    )
    tuned = finetune_head(head, images, cache, place / f"{images.name}-tuned", settings)
    finished = time.monotonic()
    fill_split(tuned.head, cache, "test")
    before, after = right(head, cache), right(tuned.head, cache)
    table = place / "set" / f"{images.name}.csv"
    gain, half = paired(before, after, groups_of(images, cache, table))
    return {
        "images": sum(item.split == "train" for item in images.items),
        "test": len(before),
        "verdict": advice.verdict.kind,
        "head": sum(before.values()) / len(before),
        "fine-tuned": sum(after.values()) / len(after),
        "gain": gain,
        "half of the interval": half,
        "wrong": advice.evidence.wrong,
        "claimed": advice.verdict.tuning_gains,
        "gained": gain > half,
        "seconds of advise": advised - started,
        "seconds of fine-tuning": finished - advised,
    }


def right(head: Head, cache: Cache) -> dict[str, bool]:
    """Return whether each test image is classified correctly, by its digest."""
    test = features_of(head.source, cache, split="test").split("test")
    found = np.asarray(head.predict(test.X)) == test.labels
    return dict(zip(test.digests, found.tolist(), strict=True))


def paired(
    before: dict[str, bool], after: dict[str, bool], groups: dict[str, str]
) -> tuple[float, float]:
    """Return the gain in accuracy, and half of its 95% interval over groups of images."""
    digests = list(before)
    gains = np.array([float(after[each]) - float(before[each]) for each in digests])
    mean = gains.mean()
    _, group = np.unique([groups[each] for each in digests], return_inverse=True)
    sums = np.bincount(group, gains - mean)
    share = len(sums) / max(1, len(sums) - 1)
    return float(mean), float(1.96 * np.sqrt(share * (sums**2).sum()) / len(gains))


def groups_of(images: ImageSet, cache: Cache, table: Path) -> dict[str, str]:
    """Return the group of each image by its digest: that of the set's table, or its own."""
    groups = {}
    if table.is_file():
        with table.open(newline="", encoding="utf-8") as stream:
            groups = {row["path"]: row["group"] for row in csv.DictReader(stream)}
    items = ImageSet.read_csv(cache.set_file(images.name)).items
    return {item.digest: groups.get(item.path, item.digest) for item in items}


def balanced_accuracy(cases: list[dict[str, Any]]) -> float:
    """Return the mean share of cases of either truth in which the verdict is right.

    That of a verdict that is always the same is 0.5. It is nan if all cases have the same truth.
    """
    rights: dict[bool, list[bool]] = {True: [], False: []}
    for each in cases:
        rights[each["gained"]].append(each["claimed"] == each["gained"])
    return float(np.mean([np.mean(own) if own else np.nan for own in rights.values()]))


def interval_of(case: dict[str, Any]) -> str:
    return f"{case['gain']:+.3f} ± {case['half of the interval']:.3f}"


def tables(found: dict[str, Any]) -> Tables:
    head = ("set, base, training images", "head", "gain of fine-tuning", "wrong", "verdict", "gain")
    rows: list[tuple[Any, ...]] = [head]
    for name, case in found.items():
        claim = "expected" if case["claimed"] else "-"
        scores = (f"{case['head']:.3f}", interval_of(case), round(case["wrong"]))
        rows.append((name, *scores, case["verdict"], claim))
    others = {name: case for name, case in found.items() if BASES[0] not in name}
    for what, cases in (("all", found), ("other bases", others)):
        own = list(cases.values())
        gained, claimed = (sum(each[key] for each in own) for key in ("gained", "claimed"))
        right = sum(each["gained"] == each["claimed"] for each in own)
        told = f"{gained} gained", "", f"{right} right", f"{claimed} expected"
        rows.append((f"{what}: {len(own)} cases", "", *told))
        rows.append((f"{what}: balanced accuracy", "", "", "", balanced_accuracy(own), ""))
    return {"verdict": rows}


if __name__ == "__main__":
    run(
        measure,
        tables,
        packages=(None, None),
        advice=(None, None),
        sets=(tuple(SETS), (FACES,)),
        bases=(BASES, BASES[:1]),
        sizes=((100, 300, 0), (0,)),
        images=(2400, 200),
        test_share=(0.5, 0.5),
        every=(1, 3),
        repeats=(3, 1),
        epochs=(20, 1),
        jobs=(-1, 1),
    )

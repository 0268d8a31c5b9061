"""Are wrong labels found? ``benchmarks/suspects.py``.

Of the demo's faces and, with ``--packages FOLDER`` (see ``sets.py``), of drawings of
openclipart-png, 5% of the labels are replaced by another class, drawn by a seed. Then the 5% of the
labels that are most suspect, as in `find_suspects`, are compared with those of cleanlab's own
pipeline (`CleanLearning.find_label_issues`) on the same probabilities, and with as many drawn at
random; and so are all that both count. Images with several classes are the drawings, labelled by
all folders on their path that have at least 4% of the images; a wrong label then has or lacks one
class, and cleanlab's own is `find_label_issues` of its module for several classes. Means over the
seeds: precision is the fraction of suspects whose label was replaced, recall that of replaced
labels that are suspects. Some labels of the drawings are wrong, or one of several right ones,
before any is replaced.
"""

import argparse
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from cleanlab.classification import CleanLearning
from cleanlab.multilabel_classification import get_label_quality_scores
from cleanlab.multilabel_classification.filter import find_label_issues

from bottleneck import Cache, FrozenBase, ImageSet, extract_features, load_features
from bottleneck.heads import held_out_probabilities
from bottleneck.labels import SEPARATOR, classes_of, join_classes
from bottleneck.suspects import judge_several, judge_single
from common import Tables, run
from precision import pictures
from sets import load

FACES, CLIPART, SEVERAL = "faces", "drawings", "drawings of several classes"
SHARE = 0.05
COMMON = 0.04
OURS, CLEANLAB, RANDOM = "bottleneck", "cleanlab", "random"
KEYS = ("precision of the first 5%", "recall", "precision of all counted", "recall of all counted")


def measure(given: argparse.Namespace) -> Iterator[tuple[str, Any]]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        base = FrozenBase("efficientnet_lite0", ["penultimate"], pool="avg")
        sets = {FACES: (pictures(folder / FACES, every=given.every), "softmax")}
        if given.packages:
            images = load("clipart", given.packages / "clipart", folder, images=given.images)
            sets[CLIPART] = images, "softmax"
            sets[SEVERAL] = by_folders(images), "logreg"
        for title, (images, clf) in sets.items():
            found = [
                compare(images, base, Cache(folder / "cache"), clf, seed)
                for seed in range(given.seeds)
            ]
            yield title, mean(found)


def mean(found: Sequence[dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    return {
        name: {key: float(np.mean([each[name][key] for each in found])) for key in KEYS}
        for name in found[0]
    }


def by_folders(images: ImageSet) -> ImageSet:
    """Return drawings labelled by all folders on their path that have many of the images."""
    named = [Path(item.path).parts for item in images.items]
    folders = [parts[parts.index("png") + 1 : -1] for parts in named]
    counts = Counter(each for own in folders for each in set(own))
    kept = [
        sorted({each for each in own if counts[each] >= COMMON * len(images.items)})
        for own in folders
    ]
    labels = [join_classes(own) if len(own) != 1 else own[0] for own in kept]
    pairs = zip(images.items, labels, strict=True)
    return replace(images, items=tuple(replace(item, label=label) for item, label in pairs))


def compare(
    images: ImageSet, base: FrozenBase, cache: Cache, clf: str, seed: int
) -> dict[str, dict[str, float]]:
    """Return precision and recall of the first 5%, and of all that are counted, of each."""
    wrong, flipped = flip(images, seed)
    extract_features(flipped, base, cache)
    features = load_features(cache, image_set=flipped.name)
    first = len(wrong)
    held = held_out_probabilities(features, clf, rows=np.ones(len(features), bool))
    judge = judge_several if held.targets.multilabel else judge_single
    counted, quality, _ = judge(held.targets, held.probabilities)
    paths = features.paths[held.rows]
    own, issues = theirs(held.targets, held.probabilities)
    drawn = np.random.default_rng(seed).permutation(len(paths))
    found = {
        OURS: (paths[quality.argsort()[:first]], paths[counted]),
        CLEANLAB: (paths[own[:first]], paths[issues]),
        RANDOM: (paths[drawn[:first]], paths[drawn[: counted.sum()]]),
    }
    return {
        name: dict(zip(KEYS, [*scores(wrong, few), *scores(wrong, every)], strict=True))
        for name, (few, every) in found.items()
    }


def theirs(targets: Any, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the order of suspicion of cleanlab's pipeline, and which labels it counts as wrong."""
    if targets.multilabel:
        labels = [np.flatnonzero(row).tolist() for row in targets.codes]
        quality = get_label_quality_scores(labels, probabilities)
        return quality.argsort(), find_label_issues(labels, probabilities, n_jobs=1)
    found = CleanLearning().find_label_issues(labels=targets.codes, pred_probs=probabilities)
    return found["label_quality"].to_numpy().argsort(), found["is_label_issue"].to_numpy()


def flip(images: ImageSet, seed: int) -> tuple[set[str], ImageSet]:
    """Return the paths of images with a wrong label, and the set with these labels."""
    rng, classes = np.random.default_rng(seed), images.classes
    items = list(images.items)
    drawn = rng.choice(len(items), round(SHARE * len(items)), replace=False)
    for place in drawn:
        old = items[place].label
        if images.multilabel:
            label = join_classes(sorted({*classes_of(old)} ^ {str(rng.choice(classes))}))
            label = label if SEPARATOR in label else f"{label}{SEPARATOR}"
        else:
            label = str(rng.choice([each for each in classes if each != old]))
        items[place] = replace(items[place], label=label)
    name = f"{images.name}-{'several-' * images.multilabel}{seed}"
    return {items[place].path for place in drawn}, replace(images, items=tuple(items), name=name)


def scores(wrong: set[str], found: Sequence[str]) -> tuple[float, float]:
    right = len(wrong.intersection(found))
    return right / max(1, len(found)), right / len(wrong)


def tables(found: dict[str, Any]) -> Tables:
    rows = [
        (f"{title}, {name}", *own.values())
        for title, each in found.items()
        for name, own in each.items()
    ]
    return {"suspects": [("", *KEYS), *rows]}


if __name__ == "__main__":
    run(measure, tables, packages=(None, None), images=(1200, 100), every=(1, 2), seeds=(5, 1))

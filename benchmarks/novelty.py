"""Images of classes that a head does not know: ``benchmarks/novelty.py``.

Leaves one class after the other out of the training images of the demo's faces and of the sets of
``sets.py`` (``--packages FOLDER``, the packages in folders by their names), and tells its test
images from the others by novelty: the area under the ROC curve (AUROC), the mean over at most
``--classes`` classes, with half of its 95% interval over these. Beside it, on the same features
(EfficientNet-Lite0, penultimate), and with differences to novelty that are paired over the classes:
the highest probability of a softmax head that was fitted on the same images, and ViM, Mahalanobis
and nearest neighbours of pytorch-ood, run by the interpreter of an environment that has it
(``--reference PYTHON``). The share of held-out images above 95 tells whether percentiles are
calibrated; it should be 0.05.
"""

import argparse
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score

import sets
from bottleneck import Cache, FrozenBase, ImageSet, extract_features, load_features
from bottleneck.demo import write_demo_images
from bottleneck.experiments import half_width
from bottleneck.features import Features
from bottleneck.heads import fit_rows
from bottleneck.heads.novelty import fit_novelty
from common import Tables, run

NAMES = ("clipart", "letters", "emoji", "sprites")
SHARE = "share of known images above 95"
FEWEST = 3
"""Classes over which an interval says anything."""
REFERENCE = """
import sys
from pathlib import Path
import numpy as np, torch
from pytorch_ood.detector import KNN, Mahalanobis, ViM
for file in sorted(Path(sys.argv[1]).glob("given-*.npz")):
    given = {name: torch.tensor(array) for name, array in np.load(file).items()}
    ways = {"Mahalanobis": Mahalanobis(None), "KNN": KNN(None)}
    ways["ViM"] = ViM(None, given["X"].shape[1] // 2, given["weight"], given["bias"])
    scores = {}
    for name, way in ways.items():
        way.fit_features(given["X"], given["y"])
        scores["pytorch-ood " + name] = np.asarray(way.predict_features(given["Z"]))
    np.savez(file.with_name(file.name.replace("given", "found")), **scores)
"""


def features_of(name: str, given: argparse.Namespace, folder: Path) -> Features | None:
    """Return the features of a set; None if its package is not given."""
    if name == "faces":
        write_demo_images(folder / "data")
        images = ImageSet.from_folder(folder / "data")
    elif given.packages:
        images = sets.load(name, given.packages / name, folder / "tables")
    else:
        return None
    extract_features(images, FrozenBase("efficientnet_lite0"), Cache(folder / name))
    return load_features(folder / name)


def measure(given: argparse.Namespace) -> Iterator[tuple[str, Any]]:
    for name in ("faces", *NAMES):
        with tempfile.TemporaryDirectory() as folder:
            features = features_of(name, given, Path(folder))
            if features is None:
                continue
            yield name, figures(features, given.classes, given.reference, Path(folder))


def figures(
    features: Features, count: int, reference: Path | None, folder: Path
) -> dict[str, dict[str, float]]:
    """Return the AUROC of each method, over classes that are left out."""
    chosen = np.random.default_rng(0).permutation(np.unique(features.labels))[:count]
    found = {label: distances(features, label, folder) for label in chosen.tolist()}
    if reference:
        subprocess.run([str(reference), "-c", REFERENCE, str(folder)], check=True)
    test, rows = features.split("test"), []
    for label, own in found.items():
        if (file := folder / f"found-{label}.npz").exists():
            with np.load(file) as others:
                own |= dict(others.items())
        unknown, share = test.labels == label, own.pop(SHARE)
        areas = {name: float(roc_auc_score(unknown, each)) for name, each in own.items()}
        rows.append(areas | {SHARE: share})
    novelty = [row["novelty"] for row in rows]
    return {
        name: summary([row[name] for row in rows], None if name in {"novelty", SHARE} else novelty)
        for name in rows[0]
    }


def summary(values: Sequence[float], others: Sequence[float] | None) -> dict[str, float]:
    """Return the mean over classes, its difference to that of others, and half of each interval."""
    found = {"classes": len(values), "mean": float(np.mean(values)), "half": half_width(values, 0)}
    if others is None:
        return found
    changes = [value - other for value, other in zip(values, others, strict=True)]
    return found | {
        "minus novelty": float(np.mean(changes)),
        "half of that": half_width(changes, 0),
    }


def distances(features: Features, label: str, folder: Path) -> dict[str, Any]:
    """Return distances of the test images without one class, and write what the reference needs."""
    train, test = features.split("train"), features.split("test")
    train = train.take(train.labels != label)
    novelty = fit_novelty(train.X, train.groups)
    known = novelty.percentiles(test.X[test.labels != label])
    found = {
        "novelty": novelty.distances(test.X),
        SHARE: float((known > 95).mean()),
    }
    if len(np.unique(train.labels)) > 1:
        head = fit_rows(train.X, train.labels, "softmax", C=0.01)
        found["1 - highest probability"] = -head.predict_proba(test.X).max(axis=1)
        arrays = {name: np.asarray(each, np.float32) for name, each in head.model.arrays.items()}
        y = np.unique(train.labels, return_inverse=True)[1]
        np.savez(folder / f"given-{label}.npz", X=train.X, y=y, Z=test.X, **arrays)
    return found


def tables(found: dict[str, Any]) -> Tables:
    names = list(dict.fromkeys(name for own in found.values() for name in own))
    rows = [
        (name, own["novelty"]["classes"], *(shown(own.get(each)) for each in names))
        for name, own in found.items()
    ]
    return {"novelty": [("set", "classes left out", *names), *rows]}


def shown(own: dict[str, float] | None) -> str:
    if own is None:
        return "-"
    text = f"{own['mean']:.3f}"
    if own["classes"] < FEWEST:
        return text
    if "minus novelty" not in own:
        return f"{text} ± {own['half']:.3f}"
    return f"{text} ({own['minus novelty']:+.3f} ± {own['half of that']:.3f})"


if __name__ == "__main__":
    run(measure, tables, packages=(None, None), reference=(None, None), classes=(10, 2))

"""What bf16 and float16 do to features: ``python tests/benchmarks/precision.py [CLIPART]``.

EfficientNet-Lite0's pooled features of scikit-image's 200 faces, and of 1,200 images in the eight
largest folders of Debian's openclipart-png where its folder ``png`` is given. For each way of
computing and storing: the smallest cosine with float32 features of any image, and the accuracy of
five folds of a logistic regression, the same folds for all, with its standard error. Prints a table
and writes ``precision.json`` into the current folder.
"""

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from bottleneck import (
    Cache,
    FrozenBase,
    ImageSet,
    extract_features,
    load_features,
    select_features,
)
from bottleneck.demo import write_demo_images

PER_FOLDER = 150
FOLDERS = 8
WAYS = {
    "fp32, float32": ("fp32", "float32"),
    "auto, float16": ("auto", "float16"),
    "bf16, float16": ("bf16", "float16"),
}


def main() -> None:
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        write_demo_images(Path(folder) / "faces")
        sets = {"faces": ImageSet.open(Path(folder) / "faces")}
        if len(sys.argv) > 1:
            sets["openclipart"] = clipart(Path(sys.argv[1]), Path(folder) / "manifest.csv")
        for name, images in sets.items():
            results[name] = compare(images, Path(folder) / "cache")
    Path("precision.json").write_text(json.dumps(results, indent=2) + "\n")


def clipart(root: Path, manifest: Path) -> ImageSet:
    """Return as many images of each of the largest folders."""
    found = {path: sorted(path.rglob("*.png")) for path in root.iterdir() if path.is_dir()}
    largest = sorted(found, key=lambda path: -len(found[path]))[:FOLDERS]
    generator = np.random.default_rng(0)
    lines = ["path,label"]
    for folder in sorted(largest):
        chosen = generator.permutation(len(found[folder]))[:PER_FOLDER]
        lines += [f'"{found[folder][place]}",{folder.name}' for place in chosen]
    manifest.write_text("\n".join(lines) + "\n")
    return ImageSet.open(manifest)


def compare(images: ImageSet, folder: Path) -> dict:
    results: dict[str, dict] = {}
    exact = None
    for way, (precision, dtype) in WAYS.items():
        base = FrozenBase("efficientnet_lite0", ["penultimate"], precision=precision)
        cache = Cache(folder / precision / dtype)
        extract_features(images, base, cache, dtype=dtype)
        features = load_features(cache, select_features(cache))
        X = features.X.astype(np.float64)
        exact = X if exact is None else exact
        norms = np.linalg.norm(X, axis=1) * np.linalg.norm(exact, axis=1)
        cosines = (X * exact).sum(axis=1) / norms
        head = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=2000))
        folds = StratifiedKFold(5, shuffle=True, random_state=0)
        scores = cross_val_score(head, X, features.labels, cv=folds)
        results[way] = {
            "computed in": base.precision,
            "images": len(X),
            "smallest cosine": float(cosines.min()),
            "images below 0.999": int((cosines < 0.999).sum()),
            "accuracy": float(scores.mean()),
            "standard error": float(scores.std(ddof=1) / np.sqrt(len(scores))),
        }
        print(images.name, way, results[way], flush=True)
    return results


if __name__ == "__main__":
    main()

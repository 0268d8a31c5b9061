"""What to label next? ``benchmarks/suggest.py``.

A simulation of active learning: of the training images of sets of `sets` (with ``--packages
FOLDER``; else of the demo's faces), a few of each class are labelled first. In each of five rounds,
a head is fitted on the labelled images and more images are chosen and labelled; its accuracy on the
test images is measured after each. Ways to choose are compared with choosing at random from the
same start: the mean difference in accuracy after the last round, and over all rounds, with 95%
intervals of Student's t, paired over seeds. Heads are softmax with a fixed `C`.

`margin` and `entropy` take the most uncertain images, `k-centre` those that are farthest from all
labelled and chosen ones (Sener and Savarese 2018), also times the uncertainty; `k-centre of the
batch` those that are farthest from the chosen ones only, times the uncertainty; `k-means++` draws
by uncertainty times the squared distance to the chosen ones, which is what `suggest_images` does,
and BADGE (Ash et al. 2020, Deep Batch Active Learning by Diverse, Uncertain Gradient Lower Bounds)
by that of the gradients of the last layer.
"""

import argparse
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import t

from bottleneck import Cache, FrozenBase, extract_features, load_features
from bottleneck.heads import fit_rows
from bottleneck.suggest import choose_uncertain, uncertainty_of
from common import Tables, run
from precision import pictures
from sets import load

ROUNDS = 5
PENALTY = 0.003
FACES = "faces"


class Pool(NamedTuple):
    """Unit rows of images without labels and of those with one, and probabilities of the former."""

    rows: np.ndarray
    labelled: np.ndarray
    probabilities: np.ndarray
    rng: np.random.Generator

    @property
    def uncertainty(self) -> np.ndarray:
        return uncertainty_of(self.probabilities)


def drawn(pool: Pool, n: int) -> np.ndarray:
    return pool.rng.choice(len(pool.rows), n, replace=False)


def highest(pool: Pool, n: int, score: Callable[[Pool], np.ndarray]) -> np.ndarray:
    return np.argsort(-score(pool), kind="stable")[:n]


def entropy(pool: Pool) -> np.ndarray:
    p = pool.probabilities.clip(1e-12)
    return -(p * np.log(p)).sum(axis=1)


def k_centre(pool: Pool, n: int, *, uncertain: bool = True, whole: bool = True) -> np.ndarray:
    value = pool.uncertainty if uncertain else np.ones(len(pool.rows))
    distance, chosen = np.ones(len(pool.rows)), list[int]()
    if whole:
        distance = 1 - (pool.rows @ pool.labelled.T).max(axis=1)
    for _ in range(n):
        gain = value * distance
        gain[chosen] = -1
        chosen.append(int(gain.argmax()))
        distance = np.minimum(distance, 1 - pool.rows @ pool.rows[chosen[-1]])
    return np.array(chosen)


def shipped(pool: Pool, n: int) -> np.ndarray:
    seed = int(pool.rng.integers(2**31))
    return choose_uncertain(pool.rows, pool.uncertainty, n, seed=seed)


def badge(pool: Pool, n: int) -> np.ndarray:
    """k-means++ on gradients, by their inner products alone."""
    shares = pool.probabilities.copy()
    shares[np.arange(len(shares)), shares.argmax(axis=1)] -= 1
    length = (shares**2).sum(axis=1)
    odds, chosen = length.copy(), list[int]()
    for _ in range(n):
        odds[chosen] = 0
        chosen.append(int(pool.rng.choice(len(odds), p=odds / odds.sum())))
        last = chosen[-1]
        product = (shares @ shares[last]) * (pool.rows @ pool.rows[last])
        odds = np.minimum(odds, (length + length[last] - 2 * product).clip(0))
    return np.array(chosen)


RANDOM = "random"
WAYS: dict[str, Callable[[Pool, int], np.ndarray]] = {
    RANDOM: drawn,
    "k-means++, times margin": shipped,
    "k-centre of the batch, times margin": partial(k_centre, whole=False),
    "k-centre, times margin": k_centre,
    "k-centre": partial(k_centre, uncertain=False),
    "margin": partial(highest, score=lambda pool: pool.uncertainty),
    "entropy": partial(highest, score=entropy),
    "BADGE": badge,
}


def measure(given: argparse.Namespace) -> Iterator[tuple[str, Any]]:
    for each in given.sets if given.packages else [FACES]:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            if given.packages:
                images = load(each, given.packages / each, folder)
            else:
                images = pictures(folder / each, every=given.every).with_splits()
            cache = Cache(folder / "cache")
            extract_features(images, FrozenBase("efficientnet_lite0", ["penultimate"]), cache)
            yield each, compared(load_features(cache), given)


def compared(features: Any, given: argparse.Namespace) -> dict[str, Any]:
    """Return the accuracy by random choice, and the gains of the other ways over it."""
    curves = {
        way: np.array([simulate(features, way, seed, given) for seed in range(given.seeds)])
        for way in WAYS
    }
    plain = curves.pop(RANDOM)
    gains = {way: own - plain for way, own in curves.items()}
    return {
        RANDOM: {"before": float(plain[:, 0].mean()), "after": float(plain[:, -1].mean())},
        **{
            way: {"last": interval(gain[:, -1]), "mean": interval(gain[:, 1:].mean(axis=1))}
            for way, gain in gains.items()
        },
    }


def simulate(features: Any, way: str, seed: int, given: argparse.Namespace) -> list[float]:
    """Return the accuracy on the test images before each round, and after the last."""
    train, test = features.split("train"), features.split("test")
    units = train.X / np.linalg.norm(train.X, axis=1, keepdims=True)
    start, rng = np.random.default_rng(seed), np.random.default_rng([seed, 1])
    classes = sorted(set(train.labels))
    own = [np.flatnonzero(train.labels == label) for label in classes]
    labelled = np.concatenate([start.choice(each, given.shots, replace=False) for each in own])
    accuracies = []
    for _ in range(ROUNDS + 1):
        head = fit_rows(train.X[labelled], train.labels[labelled], "softmax", C=PENALTY)
        accuracies.append(float((head.predict(test.X) == test.labels).mean()))
        rest = np.setdiff1d(np.arange(len(units)), labelled)
        pool = Pool(units[rest], units[labelled], head.predict_proba(train.X[rest]), rng)
        labelled = np.append(labelled, rest[WAYS[way](pool, given.n)])
    return accuracies


def interval(values: np.ndarray) -> list[float]:
    """Return the mean with its 95% interval."""
    spread = 0.0
    if len(values) > 1:
        spread = t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5
    return [float(values.mean() + sign * spread) for sign in (0, -1, 1)]


def tables(found: dict[str, Any]) -> Tables:
    parts = {"last": "after the last round", "mean": "mean of all rounds"}
    columns = [(name, part) for name in found for part in parts]
    head = ("way to choose", *(f"{name}, {parts[part]}" for name, part in columns))
    rows = [
        (way, *(told(found[name][way][part]) for name, part in columns))
        for way in WAYS
        if way != RANDOM
    ]
    return {"suggest": [head, *rows]}


def told(found: list[float]) -> str:
    value, low, high = (f"{100 * each:+.1f}" for each in found)
    return f"{value} ({low} to {high})"


if __name__ == "__main__":
    run(
        measure,
        tables,
        packages=(None, None),
        sets=(("clipart", "emoji", "letters", "sprites"), ("clipart",)),
        seeds=(5, 2),
        shots=(5, 2),
        n=(50, 5),
        every=(1, 2),
    )

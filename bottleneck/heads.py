"""Head recipes and the fitted head: fit on features, predict, save, load.

scikit-learn fits. A fitted head is affine: its standardisation is folded into its weights. It is
saved as safetensors and JSON, so that loading one runs no code.
"""

import hashlib
import json
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_softmax, softmax
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.multiclass import OneVsRestClassifier
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from bottleneck.errors import DataError, UnknownNameError, UsageError, did_you_mean
from bottleneck.solvers import span_basis

if TYPE_CHECKING:
    from torch import nn

__all__ = ["C_GRID", "RECIPES", "Head", "find_head", "fit_head", "head_names"]

C_GRID = tuple(float(f"1e{exponent}") for exponent in range(-6, 2))
_SCHEMA_VERSION = 1
_FOLDS = 5
_MAX_ITER = 10_000


def _softmax(C: float, seed: int) -> LogisticRegression:
    return LogisticRegression(C=C, max_iter=_MAX_ITER, random_state=seed)


def _logreg(C: float, seed: int) -> OneVsRestClassifier:
    return OneVsRestClassifier(_softmax(C, seed))


def _svm(C: float, seed: int) -> LinearSVC:
    return LinearSVC(C=C, max_iter=_MAX_ITER, random_state=seed, dual="auto")


RECIPES: Mapping[str, Callable[[float, int], Any]] = {
    "softmax": _softmax,
    "logreg": _logreg,
    "svm": _svm,
}
"""Classifiers by name: multinomial and one-vs-rest logistic regression, linear SVM."""


@dataclass(frozen=True, eq=False)
class Head:
    """An affine classifier on features.

    Attributes
    ----------
    clf : str
        The recipe: ``softmax``, ``logreg`` or ``svm``.
    classes : tuple of str
        k labels, sorted.
    weight : np.ndarray
        float32 of shape (k, d), standardisation included.
    bias : np.ndarray
        float32 of shape (k,).
    C : float
        Inverse strength of the L2 penalty, as in scikit-learn.
    temperature : float
        Divides the scores of an SVM before the softmax that turns them into probabilities; fitted
        on held-out scores (Guo et al. 2017, On Calibration of Modern Neural Networks, section 4).
        1 for the other recipes.
    scores : dict
        How `C` was chosen: the held-out accuracy and log loss of each candidate.
    source : dict
        Of which features: model, weights, layer, fingerprint, image set and split digests.
    """

    clf: str
    classes: tuple[str, ...]
    weight: np.ndarray
    bias: np.ndarray
    C: float
    temperature: float = 1.0
    scores: dict[str, Any] = field(default_factory=dict)
    source: dict[str, Any] = field(default_factory=dict)

    def decision_function(self, X: np.ndarray) -> np.ndarray:
        """Return the scores of features.

        Parameters
        ----------
        X : np.ndarray
            Shape (n_samples, d).

        Returns
        -------
        np.ndarray
            Shape (n_samples, k), also for two classes.

        Raises
        ------
        UsageError
            The features have another length than those that the head was fitted on.
        """
        if X.ndim != 2 or X.shape[1] != self.weight.shape[1]:  # noqa: PLR2004 - rows and columns
            raise UsageError(
                f"features of shape {X.shape} do not fit this head; expected "
                f"(n, {self.weight.shape[1]}): give features of the layer that it was fitted on"
            )
        scores: np.ndarray = X @ self.weight.T + self.bias
        return scores

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Return probabilities of shape (n_samples, k) whose rows sum to 1."""
        return _probabilities(self.clf, self.decision_function(X), self.temperature)

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Return the label with the highest score for each row, shape (n_samples,)."""
        best = self.decision_function(X).argmax(axis=1)
        return np.array([self.classes[place] for place in best])

    def to_module(self) -> "nn.Module":
        """Return the head as a `torch.nn.Linear` whose outputs are the scores."""
        import torch  # noqa: PLC0415 - fitting and saving need no torch

        module = torch.nn.Linear(self.weight.shape[1], self.weight.shape[0])
        module.load_state_dict(
            {"weight": torch.from_numpy(self.weight), "bias": torch.from_numpy(self.bias)}
        )
        return module

    def save(self, folder: str | Path) -> Path:
        """Save as ``head.safetensors`` and ``head.json``, whole or not at all.

        A head that is already in `folder` is replaced.
        """
        target = Path(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.partial")
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            temporary.mkdir()
            save_file({"weight": self.weight, "bias": self.bias}, temporary / "head.safetensors")
            (temporary / "head.json").write_text(json.dumps(self._metadata(temporary), indent=2))
            previous = target.with_name(f".{target.name}.previous")
            shutil.rmtree(previous, ignore_errors=True)
            if target.exists():
                target.rename(previous)
            temporary.rename(target)
            shutil.rmtree(previous, ignore_errors=True)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return target

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Load a saved head; nothing in it is run.

        Raises
        ------
        UnknownNameError
            There is no head in `folder`.
        DataError
            Its files are damaged, or do not belong together.
        """
        path = Path(folder)
        if not (path / "head.json").is_file():
            near = did_you_mean(path.name, head_names(path.parent))
            raise UnknownNameError(
                f"no head {path.name!r} in {str(path.parent)!r}{near}; 'bottleneck fit-head' makes "
                f"one"
            )
        try:
            metadata = json.loads((path / "head.json").read_text())
            tensors = load_file(path / "head.safetensors")
            head = cls(
                clf=metadata["clf"],
                classes=tuple(metadata["classes"]),
                weight=tensors["weight"],
                bias=tensors["bias"],
                C=metadata["C"],
                temperature=metadata["temperature"],
                scores=metadata["scores"],
                source=metadata["source"],
            )
            same_file = metadata["weights_sha256"] == _digest(path / "head.safetensors")
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise DataError(
                f"the head in {str(path)!r} cannot be read ({error}); fit it again"
            ) from error
        if not same_file or head.bias.shape != (len(head.classes),):
            raise DataError(
                f"head.safetensors in {str(path)!r} is not the file that head.json describes; fit "
                f"the head again"
            )
        return head

    def as_dict(self) -> dict[str, Any]:
        """Return all but the weights, as JSON holds it."""
        return {
            "clf": self.clf,
            "classes": list(self.classes),
            "n_features": self.weight.shape[1],
            "C": self.C,
            "temperature": self.temperature,
            "scores": self.scores,
            "source": self.source,
        }

    def _metadata(self, folder: Path) -> dict[str, Any]:
        return {
            "schema": _SCHEMA_VERSION,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            **self.as_dict(),
            "weights_sha256": _digest(folder / "head.safetensors"),
        }


def head_names(folder: str | Path) -> list[str]:
    """Return the names of the heads saved in a folder."""
    return sorted(path.parent.name for path in Path(folder).glob("[!.]*/head.json"))


def find_head(folder: str | Path, name: str | None = None) -> tuple[str, Head]:
    """Load a head by its name, or the only one that there is.

    Raises
    ------
    DataError
        The folder has no heads.
    UsageError
        It has several and no name was given.
    UnknownNameError
        It has none of that name.
    """
    names = head_names(folder)
    if name is None:
        if not names:
            raise DataError(f"no heads in {str(folder)!r}; 'bottleneck fit-head' makes one")
        if len(names) > 1:
            raise UsageError(
                f"{str(folder)!r} has {len(names)} heads: {', '.join(names)}; choose one with "
                f"--head"
            )
        name = names[0]
    return name, Head.load(Path(folder) / name)


def fit_head(
    X: np.ndarray,
    y: np.ndarray,
    clf: str = "softmax",
    *,
    C: float | None = None,
    groups: Sequence[str] | np.ndarray | None = None,
    validation: tuple[np.ndarray, np.ndarray] | None = None,
    source: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Head:
    """Fit a classifier on standardised features and choose `C` on held-out ones.

    `C` is the candidate with the highest held-out accuracy and, among equals, the lowest log loss.
    Held out are five stratified folds of the training rows (fewer where a class has fewer
    images), or the validation rows where they are given. Either way the head is then fitted on all
    training rows, and on them alone. Mean and variance come from the rows fitted on.

    Parameters
    ----------
    X : np.ndarray
        Shape (n_samples, d).
    y : np.ndarray
        Labels of shape (n_samples,).
    clf : str
        A key of `RECIPES`.
    C : float, optional
        Inverse strength of the L2 penalty; chosen from `C_GRID` if not given.
    groups : sequence of str, optional
        Rows of one group (identical images) stay in one fold.
    validation : tuple of np.ndarray, optional
        Features (m, d) and labels (m,) to choose `C` on, instead of folds.
    source : mapping, optional
        Kept with the head, see `Head`.
    seed : int
        Of the folds and the solver.

    Returns
    -------
    Head

    Raises
    ------
    UnknownNameError
        There is no such recipe.
    UsageError
        `C` is not above zero.
    DataError
        There are fewer than two classes, or too few images to choose `C`.
    """
    if clf not in RECIPES:
        raise UnknownNameError(
            f"no classifier {clf!r}{did_you_mean(clf, RECIPES)}; expected one of "
            f"{', '.join(RECIPES)}"
        )
    if C is not None and not 0 < C < np.inf:
        raise UsageError(f"C is {C}, expected a number above 0; give another --C, or none")
    classes, targets = np.unique(y, return_inverse=True)
    if len(classes) < 2:  # noqa: PLR2004 - a classifier tells at least two apart
        raise DataError(
            f"the training images have {len(classes)} class; a classifier needs at least two: "
            f"add images of another"
        )
    folds = _held_out_rows(X, classes, targets, groups, validation, seed=seed)
    if folds is None and C is None:
        rarest = classes[np.bincount(targets).argmin()]
        raise DataError(
            f"class {rarest!r} has 1 training image; cross-validation needs 2 different ones to "
            f"choose C: add images, or give --C"
        )
    grid = C_GRID if C is None else (C,)
    temperature, scores = 1.0, dict[str, Any]()
    if folds is not None:
        C, temperature, scores = _choose(folds, clf, grid, len(classes), seed)
    assert C is not None  # noqa: S101 - given or chosen
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        ((weight, bias),) = _fit_grid(X, targets, clf, [C], seed)
    scores["converged"] = not any(w.category is ConvergenceWarning for w in caught)
    return Head(
        clf=clf,
        classes=tuple(map(str, classes)),
        weight=weight.astype(np.float32),
        bias=bias.astype(np.float32),
        C=C,
        temperature=temperature,
        scores=scores,
        source=dict(source or {}),
    )


@dataclass(frozen=True)
class _Holdout:
    """Rows to fit on and rows held out."""

    X: np.ndarray
    targets: np.ndarray
    X_held: np.ndarray
    targets_held: np.ndarray


def _held_out_rows(
    X: np.ndarray,
    classes: np.ndarray,
    targets: np.ndarray,
    groups: Sequence[str] | np.ndarray | None,
    validation: tuple[np.ndarray, np.ndarray] | None,
    *,
    seed: int,
) -> Iterator[_Holdout] | None:
    """Return what to choose `C` on; None where a class is too small for folds."""
    if validation is not None:
        X_held, y_held = validation
        strange = sorted(set(map(str, y_held)) - set(map(str, classes)))
        if strange:
            raise DataError(
                f"the validation images have the class {strange[0]!r} that no training image has; "
                f"add training images of it, or remove it"
            )
        return iter([_Holdout(X, targets, X_held, np.searchsorted(classes, y_held))])
    members = np.arange(len(X)) if groups is None else np.asarray(groups)
    _, first, member_of_row = np.unique(members, return_index=True, return_inverse=True)
    smallest = int(np.bincount(targets[first], minlength=len(classes)).min())
    if smallest < 2:  # noqa: PLR2004 - one to fit on, one to hold out
        return None
    folds = StratifiedKFold(min(_FOLDS, smallest), shuffle=True, random_state=seed)
    parts = folds.split(first, targets[first])
    held = (np.isin(member_of_row, rows) for _, rows in parts)
    return (_Holdout(X[~rows], targets[~rows], X[rows], targets[rows]) for rows in held)


def _choose(
    holdouts: Iterator[_Holdout], clf: str, grid: Sequence[float], n_classes: int, seed: int
) -> tuple[float, float, dict[str, Any]]:
    """Return the best `C`, its temperature and the candidates' held-out metrics."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        held = [_held_out_scores(holdout, clf, grid, n_classes, seed) for holdout in holdouts]
    targets = np.concatenate([targets for targets, _ in held])
    candidates = []
    for place, C in enumerate(grid):
        scores = np.concatenate([of_grid[place] for _, of_grid in held])
        temperature = _temperature(scores, targets) if clf == "svm" else 1.0
        chosen = _probabilities(clf, scores, temperature)[np.arange(len(targets)), targets]
        candidates.append(
            {
                "C": C,
                "accuracy": float(np.mean(scores.argmax(axis=1) == targets)),
                "log_loss": float(-np.log(np.maximum(chosen, np.finfo(float).tiny)).mean()),
                "temperature": temperature,
            }
        )
    best = max(candidates, key=lambda found: (found["accuracy"], -found["log_loss"]))
    summary = {
        "held_out": "validation images" if len(held) == 1 else f"{len(held)} folds",
        "accuracy": best["accuracy"],
        "log_loss": best["log_loss"],
        "candidates": candidates,
    }
    return best["C"], best["temperature"], summary


def _held_out_scores(
    holdout: _Holdout, clf: str, grid: Sequence[float], n_classes: int, seed: int
) -> tuple[np.ndarray, list[np.ndarray]]:
    if len(np.unique(holdout.targets)) < n_classes:
        raise DataError(
            "identical images stand under several classes, which leaves a fold without one of "
            "them; correct the labels, or give --C"
        )
    fitted = _fit_grid(holdout.X, holdout.targets, clf, grid, seed)
    return holdout.targets_held, [holdout.X_held @ weight.T + bias for weight, bias in fitted]


def _fit_grid(
    X: np.ndarray, targets: np.ndarray, clf: str, grid: Sequence[float], seed: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Fit on standardised features for each `C`; return weights and biases for `X` as it is."""
    scaler = StandardScaler().fit(X.astype(np.float64))
    Z = scaler.transform(X.astype(np.float64))
    basis = span_basis(Z)
    reduced = Z if basis is None else Z @ basis
    fitted = []
    for C in grid:
        weight, bias = _affine(RECIPES[clf](C, seed).fit(reduced, targets), clf)
        lifted = weight if basis is None else weight @ basis.T
        folded = lifted / scaler.scale_
        fitted.append((folded, bias - folded @ scaler.mean_))
    return fitted


def _affine(estimator: Any, clf: str) -> tuple[np.ndarray, np.ndarray]:
    """Return weight (k, d) and bias (k,) of a fitted linear classifier, also for two classes."""
    parts = getattr(estimator, "estimators_", [estimator])
    weight = np.vstack([part.coef_ for part in parts])
    bias = np.concatenate([part.intercept_ for part in parts])
    if len(weight) > 1:
        return weight, bias
    # The softmax of (-s / 2, s / 2) is the sigmoid of s.
    half = 0.5 if clf == "softmax" else 1.0
    return np.vstack([-half * weight, half * weight]), np.concatenate([-half * bias, half * bias])


def _probabilities(clf: str, scores: np.ndarray, temperature: float) -> np.ndarray:
    if clf == "logreg":
        each = expit(scores)
        total = each.sum(axis=1, keepdims=True)
        return np.asarray(each / np.maximum(total, np.finfo(each.dtype).tiny))
    return np.asarray(softmax(scores / temperature, axis=1))


def _temperature(scores: np.ndarray, targets: np.ndarray) -> float:
    """Return the temperature with the lowest log loss, between 1/100 and 100."""

    def log_loss(log_temperature: float) -> float:
        scaled = log_softmax(scores / np.exp(log_temperature), axis=1)
        return float(-scaled[np.arange(len(targets)), targets].mean())

    widest = np.log(100.0)
    found = minimize_scalar(log_loss, bounds=(-widest, widest), method="bounded")
    return float(np.exp(found.x))


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()

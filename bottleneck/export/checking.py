"""Check that an exported file gives the answers of the head itself, in its own runtime."""

import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np

from bottleneck.errors import ExportError, counted, reworded
from bottleneck.export.networks import Parts, failure, quiet
from bottleneck.export.samples import Sample
from bottleneck.labels import classes_of
from bottleneck.sessions import not_run, open_session
from bottleneck.settings import ExportSettings

__all__ = [
    "Agreement",
    "Runtime",
    "check_agreement",
    "check_answers",
    "onnx_runtime",
    "torch_runtime",
]

Runtime = Callable[[np.ndarray], np.ndarray]
"""Takes pixels or images of n images, and returns probabilities of shape (n, k)."""
_AT_ONCE = 8
_FOLLOWS = 0.5
"""The least correlation of an int8 file's probabilities with ours; noise has none."""
_SAME = 1e-6
"""The largest difference of probabilities that are taken as the same."""


@dataclass
class Agreement:
    """How far a file's answers are from those of the head.

    Attributes
    ----------
    tolerance : float
        The largest difference of a probability that is allowed.
    images : int
        Number of images.
    difference : float
        The largest difference of a probability.
    clear : int
        Images whose class is clear: by the head, their two best probabilities differ by more than
        twice the tolerance; or, if they may have several classes, those of having each class and
        of not having it.
    same : int
        How many of these get the same class from the file.
    labelled, before, after : int
        Images with labels, and how many of them the head and the file classify correctly.
    """

    tolerance: float
    images: int = 0
    difference: float = 0.0
    clear: int = 0
    same: int = 0
    labelled: int = 0
    before: int = 0
    after: int = 0
    worst: str = field(default="", repr=False)
    _pairs: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list, repr=False)

    @property
    def correlation(self) -> float:
        """Of their probabilities with ours over all images; 1 if ours are the same for all."""
        both = [np.concatenate(rows) for rows in zip(*self._pairs, strict=True)]
        ours, theirs = (rows - rows.mean(axis=0) for rows in both)
        if np.abs(ours).max() <= _SAME:
            return 1.0
        scale = np.linalg.norm(ours) * np.linalg.norm(theirs)
        return float((ours * theirs).sum() / scale) if scale else 0.0

    def add(self, parts: Parts, samples: Sequence[Sample], theirs: np.ndarray) -> None:
        """Compare the probabilities of some images.

        Parameters
        ----------
        parts : Parts
            The head and its base.
        samples : sequence of Sample
            The n images.
        theirs : np.ndarray
            The file's probabilities, shape (n, k).
        """
        ours = parts.rows([each.pixels for each in samples])
        self._pairs.append((ours, theirs))
        gaps = np.abs(ours - theirs).max(axis=1)
        if not gaps.max() <= self.difference:  # also nan
            self.difference = float(gaps.max())
            self.worst = samples[int(gaps.argmax())].item.path
        head = parts.head
        given, found = (head.labels(each - 0.5) for each in (ours, theirs))
        best = np.sort(ours, axis=1)
        apart = 2 * np.abs(ours - 0.5).min(axis=1) if head.multilabel else best[:, -1] - best[:, -2]
        clear = apart > 2 * self.tolerance
        self.images += len(samples)
        self.clear += int(clear.sum())
        self.same += int((clear & (given == found)).sum())
        for sample, one, two in zip(samples, given, found, strict=True):
            if sample.item.label is None:
                continue
            true = _classes(sample.item.label, several=head.multilabel)
            self.labelled += 1
            self.before += _classes(str(one), several=head.multilabel) == true
            self.after += _classes(str(two), several=head.multilabel) == true


def _classes(label: str, *, several: bool) -> set[str]:
    return set(classes_of(label)) if several else {label}


def check_agreement(
    parts: Parts, run: Runtime, samples: Iterable[Sample], *, whole: bool, tolerance: float = 0.0
) -> Agreement:
    """Compare a file with the head on images.

    The first image is run alone, others in batches, so that the size of a batch is seen to vary.

    Parameters
    ----------
    parts : Parts
        The head and its base.
    run : callable
        The file in its runtime.
    samples : iterable of Sample
        The images.
    whole : bool
        Whether the file takes images, and not preprocessed pixels.
    tolerance : float
        The largest difference of a probability that is allowed.

    Returns
    -------
    Agreement
    """
    found, waiting, size = Agreement(tolerance), iter(samples), 1
    while some := list(islice(waiting, size)):
        inputs = [each.image if whole else each.pixels.numpy() for each in some]
        if len({each.shape for each in inputs}) == 1:
            theirs = run(np.stack(inputs))
        else:
            theirs = np.concatenate([run(each[None]) for each in inputs])
        found.add(parts, some, theirs)
        size = _AT_ONCE
    return found


def check_answers(found: Agreement, tolerance: float | None, settings: ExportSettings) -> None:
    """Refuse a file whose probabilities are not the head's, or in int8 do not follow them.

    Parameters
    ----------
    found : Agreement
        The result of `check_agreement`.
    tolerance : float or None
        The largest difference of a probability that is allowed; None for int8.
    settings : ExportSettings
        How the file was made, for what to do.

    Raises
    ------
    ExportError
    """
    if not found.difference <= (1 if tolerance is None else tolerance) or (  # also nan
        tolerance is not None and found.same < found.clear
    ):
        raise ExportError(
            f"the exported file does not give the head's answers: probabilities of "
            f"{found.worst!r} differ by {found.difference:.2g}, expected at most "
            f"{tolerance or 1:g}; no file is written: {_remedy(settings)}"
        )
    if tolerance is None and found.correlation < _FOLLOWS:
        raise ExportError(
            f"integers do not give the head's answers: on {counted(found.images, 'image')}, their "
            f"probabilities have a correlation of {found.correlation:.2f} with its own, expected "
            f"at least {_FOLLOWS:g}; no file is written: give `precision=fp16` or `precision=fp32`"
        )


def _remedy(settings: ExportSettings) -> str:
    if settings.with_preprocessing:
        return "leave `with_preprocessing` out, and preprocess as the model card says"
    if settings.precision != "fp32":
        return "give `precision=fp32`"
    return "export a .zip, which this package loads on any machine"


def onnx_runtime(content: bytes) -> Runtime:
    """Load an ``.onnx`` file into ONNX Runtime.

    Parameters
    ----------
    content : bytes
        The file.

    Returns
    -------
    callable

    Raises
    ------
    ExportError
        ONNX Runtime cannot load it.
    """
    session = open_session(content)
    (takes,) = session.get_inputs()

    def run(batch: np.ndarray) -> np.ndarray:
        with reworded(not_run):
            (found,) = session.run(None, {takes.name: batch})
        return np.asarray(found)

    return run


def torch_runtime(content: bytes) -> Runtime:
    """Load a ``.pt2`` file by `torch.export.load`.

    Parameters
    ----------
    content : bytes
        The file.

    Returns
    -------
    callable

    Raises
    ------
    ExportError
        PyTorch cannot load it.
    """
    import torch

    failed = failure(
        f"PyTorch {torch.__version__} cannot run the exported file",
        "no file is written: export an .onnx or a .zip",
    )

    with reworded(failed), quiet():
        module: Any = torch.export.load(io.BytesIO(content)).module()

    def run(batch: np.ndarray) -> np.ndarray:
        with reworded(failed), torch.no_grad():
            found: np.ndarray = module(torch.from_numpy(batch)).numpy()
        return found

    return run

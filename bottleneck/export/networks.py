"""A head and its base as torch modules: from preprocessed pixels to probabilities."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from warnings import catch_warnings, simplefilter

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from bottleneck.bases.frozen import FrozenBase
from bottleneck.errors import ExportError, first_line, reworded
from bottleneck.heads import Head
from bottleneck.heads.bases import load_base
from bottleneck.pooling import pool
from bottleneck.records import AnySource, known_source

__all__ = ["Parts", "failure", "load_parts", "quiet", "traced"]

_SAMPLES = 2
"""A batch size that is traced as any; a batch of one is traced as one."""


class Parts:
    """A head, its base in float32, and both as modules.

    Parameters
    ----------
    head : Head
        The fitted head.
    base : FrozenBase
        The base up to its layers.

    Attributes
    ----------
    features : torch.nn.Module
        Maps pixels of shape (n, 3, height, width) to features of shape (n, d).
    probabilities : torch.nn.Module
        Maps features to probabilities of shape (n, k).
    """

    def __init__(self, head: Head, base: FrozenBase) -> None:
        self.head, self.base = head, base
        self.source = known_source(head.source)
        self.features = _Features(base.to_module(), self.source).eval()
        self.probabilities = _Probabilities(head).eval()

    @property
    def pixels(self) -> torch.Tensor:
        """Pixels to trace with, of shape (2, 3, height, width)."""
        height, width = self.base.transform.crop
        if self.base.transform.keep_aspect:  # sides that vary must not be traced as one
            width *= 2
        generator = torch.Generator().manual_seed(0)
        return torch.randn(_SAMPLES, 3, height, width, generator=generator)

    def rows(self, pixels: Sequence[torch.Tensor]) -> np.ndarray:
        """Return the probabilities that our own forward gives, of shape (n, k).

        Parameters
        ----------
        pixels : sequence of torch.Tensor
            Of each image, preprocessed, of shape (3, height, width).

        Returns
        -------
        np.ndarray
        """
        same = len({each.shape for each in pixels}) == 1
        batches = [torch.stack(list(pixels))] if same else [each[None] for each in pixels]
        found = [_columns(self.base(each), self.source).cpu().numpy() for each in batches]
        return self.head.predict_proba(np.concatenate(found))


def load_parts(head: Head, weights: str | None = None) -> Parts:
    """Load the base of a head, and check that it is the one that the head was fitted on.

    Parameters
    ----------
    head : Head
        The fitted head.
    weights : str, optional
        Current name or path of the base's weights, if they have moved.

    Returns
    -------
    Parts
        On the CPU, computed in float32, whatever the features were computed in.

    Raises
    ------
    DataError, UsageError, WeightsError
        As `bottleneck.load_base` raises.
    """
    base = load_base(head, weights=weights, device="cpu")
    if base.precision != "fp32":
        transform = base.transform
        base = FrozenBase(replace(base.settings, precision="fp32"))
        base.transform = transform  # images are resized as for the features
    return Parts(head, base)


def _columns(layers: dict[str, torch.Tensor], source: AnySource) -> torch.Tensor:
    """Return the features of n images, of shape (n, d), as the cache would give them."""
    found = []
    for part in source.parts:
        values = layers[part.layer]
        if part.pool != part.stored_pool:
            values = pool(values, part.pool, part.axes)
        found.append(values.flatten(1))
    return found[0] if len(found) == 1 else torch.cat(found, dim=1)


class _Features(nn.Module):
    def __init__(self, base: nn.Module, source: AnySource) -> None:
        super().__init__()
        self.base = base
        self._source = source

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return features of shape (n, d) of pixels of shape (n, 3, height, width)."""
        return _columns(self.base(pixels), self._source)


class _Probabilities(nn.Module):
    def __init__(self, head: Head) -> None:
        super().__init__()
        self.scorer = head.to_module().float()
        self._temperature, self._link = head.temperature, head.link

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return probabilities of shape (n, k), as `bottleneck.heads.scoring` defines them."""
        scores: torch.Tensor = self.scorer(features) / self._temperature
        if self._link == "independent":
            return scores.sigmoid()
        if self._link == "one_vs_rest":
            scores = functional.logsigmoid(scores)
        return scores.softmax(dim=1)


def traced(module: nn.Module, sample: torch.Tensor, what: str, *, any_size: bool = False) -> Any:
    """Trace a module by `torch.export`, for batches of any size.

    Parameters
    ----------
    module : torch.nn.Module
        In evaluation mode, with one input.
    sample : torch.Tensor
        An input with two rows.
    what : str
        What it is, for the message.
    any_size : bool
        Whether height and width of images vary, too.

    Returns
    -------
    torch.export.ExportedProgram

    Raises
    ------
    ExportError
        It cannot be traced.
    """
    varying = torch.export.Dim.DYNAMIC
    axes = {0: varying, **({2: varying, 3: varying} if any_size else {})}

    failed = failure(
        f"torch.export cannot trace {what}",
        "export a .zip, which this package loads on any machine, or choose another base: those of "
        "torchvision can be traced",
    )

    with reworded(failed), quiet(), torch.no_grad():
        return torch.export.export(module, (sample,), dynamic_shapes=(axes,))


def failure(what: str, remedy: str) -> Callable[[Exception], ExportError]:
    """Return what says of an error of the exporters, for `bottleneck.errors.reworded`.

    Parameters
    ----------
    what : str
        What has failed.
    remedy : str
        What to do.

    Returns
    -------
    callable
    """
    return lambda error: ExportError(
        f"{what} ({type(error).__name__}: {first_line(error)}); {remedy}"
    )


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the exporters from printing, and from warning of what is checked afterwards.

    Yields
    ------
    None
    """
    import logging

    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "root")]
    levels = [each.level for each in loggers]
    try:
        for each in loggers:
            each.setLevel(logging.ERROR)
        with catch_warnings():
            simplefilter("ignore")
            yield
    finally:
        for each, level in zip(loggers, levels, strict=True):
            each.setLevel(level)

"""Adjust features before a head sees them: a signed power, and division by their norm."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

__all__ = ["Adjust"]

_LEAST = 1e-12
"""Least divisor, as in `torch.nn.functional.normalize`: a row of zeros stays one."""


@dataclass(frozen=True)
class Adjust:
    """What is done with each row of features before anything else.

    First the signed power of each value, sign(x) |x|^p, then the division of the row by its
    Euclidean norm (Perronnin, Sánchez and Mensink 2010, Improving the Fisher Kernel for Large-Scale
    Image Classification, section 3). Where several layers are joined, the columns of each are
    divided by their own norm, and standardised apart.

    Attributes
    ----------
    power : float
        p, above 0; 1 leaves values as they are.
    normalize : str
        ``l2`` or ``none``.
    widths : tuple of int
        Numbers of columns of the joined layers, in order; empty for a single layer.
    """

    power: float = 1.0
    normalize: str = "none"
    widths: tuple[int, ...] = ()

    @property
    def changes(self) -> bool:
        """Whether anything is done."""
        return self.power != 1 or self.normalize != "none"

    def parts(self, n_features: int) -> Iterator[slice]:
        """Yield the columns that are divided by one norm.

        Parameters
        ----------
        n_features : int
            Number of columns of all layers together.

        Yields
        ------
        slice
        """
        end = 0
        for width in self.widths or (n_features,):
            end += width
            yield slice(end - width, end)

    def __call__(self, X: np.ndarray) -> np.ndarray:
        """Return adjusted rows.

        Parameters
        ----------
        X : np.ndarray
            Shape (n, d), of any float type.

        Returns
        -------
        np.ndarray
            Shape (n, d), float32 or float64; `X` itself if nothing is done.
        """
        if not self.changes:
            return X
        values = X.astype(np.promote_types(X.dtype, np.float32))  # a copy
        if self.power != 1:
            values = np.sign(values) * np.abs(values) ** values.dtype.type(self.power)
        if self.normalize == "l2":
            for columns in self.parts(X.shape[1]):
                part = values[:, columns]
                norms = np.sqrt(np.einsum("ij,ij->i", part, part, dtype=np.float64))
                part /= np.maximum(norms, _LEAST).astype(values.dtype)[:, None]
        return np.asarray(values)

    def rows(self, X: Any) -> Any:
        """Return adjusted features in memory, or streamed features that are adjusted when read.

        Parameters
        ----------
        X : np.ndarray or StreamedRows
            Shape (n, d), not yet adjusted.

        Returns
        -------
        np.ndarray or StreamedRows
        """
        if isinstance(X, np.ndarray):
            return self(X)
        # A row's norm is that of all its columns, which are then read at once.
        return replace(X, adjust=self, fits_by_part=False) if self.changes else X

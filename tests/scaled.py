"""The standardization of heads as a step of scikit-learn's pipelines, to compare heads with."""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from sklearn.preprocessing import StandardScaler


class LeastScaler(StandardScaler):
    """Divides by the standard deviation, or by half the median one of those that are not 0.

    That of each of several layers, whose numbers of columns are `widths`.
    """

    def __init__(self, *, with_std: bool = True, widths: Sequence[int] = ()) -> None:
        super().__init__(with_std=with_std)
        self.widths = widths

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        super().fit(X, y, sample_weight)
        if self.with_std:
            constant = self.scale_**2 > 2 * self.var_  # whose scale is 1
            parts = np.split(
                np.where(constant, 0, self.scale_), np.cumsum(self.widths or [len(constant)])[:-1]
            )
            least = [np.median(part[part > 0]) / 2 if part.any() else 1 for part in parts]
            self.scale_ = np.concatenate(list(map(np.maximum, parts, least)))
        return self

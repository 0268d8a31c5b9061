"""Products with rows that many problems share, and a preconditioner made of some of them."""

import torch

__all__ = ["SAMPLE", "Preconditioner", "SharedRows"]

_RANK = 200
"""Of the preconditioner; between 50 and 400 the whole takes about as long."""
SAMPLE = 8192
"""Rows that the preconditioner is made of, at most."""
_FEW = 16


class SharedRows:
    """Rows of shape (n, r) and what they make of solutions and of slopes.

    Solutions have the shape (r + 1, p, k), the intercept last; scores and slopes (n, p, k).

    Attributes
    ----------
    matrix : torch.Tensor
        The rows.
    """

    def __init__(self, matrix: torch.Tensor) -> None:
        self.matrix = matrix

    def forward(self, solution: torch.Tensor) -> torch.Tensor:
        """Return scores (n, p, k) of solutions (r + 1, p, k), whose last row is the intercept."""
        flat = solution.reshape(len(solution), -1)
        scores = _product(self.matrix, flat[:-1]) + flat[-1:]
        return scores.reshape(-1, *solution.shape[1:])

    def backward(self, slopes: torch.Tensor) -> torch.Tensor:
        """Return what slopes of the scores (n, p, k) are for the solutions (r + 1, p, k)."""
        product = _product(self.matrix.T, slopes.reshape(len(slopes), -1))
        intercepts = slopes.sum(0, keepdim=True)
        if slopes.shape[2] > 1:
            # Softmax slopes sum to 0; what rounding leaves of that, no step could remove.
            intercepts -= intercepts.mean(2, keepdim=True)
        return torch.cat([product.reshape(-1, *slopes.shape[1:]), intercepts])


class Preconditioner:
    """Divides by what the Hessian would be if all rows bent as much as their mean.

    Parameters
    ----------
    sample : torch.Tensor
        Shape (m, r): all rows, or some that were chosen at random.
    total : int
        How many rows there are in all.
    """

    def __init__(self, sample: torch.Tensor, total: int) -> None:
        self._values, self._vectors = _largest(sample)
        self._values *= total / max(1, len(sample))

    @property
    def largest(self) -> float:
        """The largest squared singular value of all rows, nearly."""
        return float(self._values[-1])

    def __call__(
        self, residual: torch.Tensor, mean: torch.Tensor, curvature: torch.Tensor
    ) -> torch.Tensor:
        """Return residuals divided.

        Parameters
        ----------
        residual : torch.Tensor
            Shape (r + 1, p, k).
        mean, curvature : torch.Tensor
            Shape (p, k): how much a row bends on average, and all rows together.
        """
        flat = residual[:-1].reshape(len(residual) - 1, -1)
        inside = (self._vectors.T @ flat).reshape(-1, *residual.shape[1:])
        largest = 1 / (1 + self._values[:, None, None] * mean)
        others = 1 / (1 + self._values[0] * mean)
        corrected = self._vectors @ ((largest - others) * inside).reshape(len(inside), -1)
        result = torch.empty_like(residual)
        result[:-1] = others * residual[:-1] + corrected.reshape(residual[:-1].shape)
        result[-1] = residual[-1] / curvature
        if residual.shape[2] > 1:
            # The same for all classes changes no softmax: only the penalty bends there, so slightly
            # beside the rest that conjugate gradients would need a hundred steps more.
            result -= result.mean(2, keepdim=True)
        return result


def _product(matrix: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Multiply; few columns are filled up, as the product takes half the time for 16 of them."""
    count = columns.shape[1]
    if 1 < count < _FEW:
        columns = torch.nn.functional.pad(columns, (0, _FEW - count))
    return (matrix @ columns)[:, :count]


def _largest(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the largest squared singular values, ascending, and their right vectors, nearly.

    One step of subspace iteration from a fixed start (Halko, Martinsson and Tropp 2011, Finding
    Structure with Randomness, section 4.5).
    """
    generator = torch.Generator().manual_seed(0)
    n_samples, n_columns = rows.shape
    if not n_columns:  # all rows are alike
        return rows.new_zeros(1), rows.new_zeros(0, 1)
    if n_samples > SAMPLE:
        chosen = torch.randperm(n_samples, generator=generator)[:SAMPLE].to(rows.device)
        rows = rows[chosen] * (n_samples / SAMPLE) ** 0.5
    rank = min(_RANK, *rows.shape)
    start = torch.randn(n_columns, rank, generator=generator, dtype=torch.float64).to(rows)
    basis = torch.linalg.qr(rows.T @ (rows @ start))[0]
    inside = (rows @ basis).double()
    values, turned = torch.linalg.eigh(inside.T @ inside)
    return values.clamp(min=0).to(rows), basis @ turned.to(rows)

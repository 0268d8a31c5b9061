"""Fits for one C after the other, against those for all at once. About 1 s."""

import numpy as np
import pytest

from bottleneck.solvers.path import fit_path
from bottleneck.solvers.stepwise import step_path


@pytest.mark.parametrize("order", [(1e-3, 1e-2, 0.1), (0.1, 1e-2, 1e-3)])
@pytest.mark.parametrize("loss", ["softmax", "logistic", "squared_hinge"])
def test_steps_find_the_solutions_of_the_whole_path(loss, order):
    """In either direction, with rows that are not fitted on."""
    generator = np.random.default_rng(0)
    rows, labels = generator.normal(size=(60, 8)), np.arange(60) % 3
    weights = generator.uniform(0.5, 2, 60) * (generator.random(60) < 0.8)
    step = step_path(rows, labels, weights, loss, 1e-12)
    for C, theirs in zip(order, fit_path(rows, labels, weights[:, None], order, loss), strict=True):
        own = step(C)
        assert own.C == C
        np.testing.assert_allclose(own.weight, theirs.weight, atol=1e-4)
        np.testing.assert_allclose(own.objective, theirs.objective, rtol=1e-9)

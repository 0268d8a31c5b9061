"""Training in passes, against training in memory and scikit-learn at tight tolerance.

About 2 s in the first tier.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from scaled import LeastScaler
from sklearn.linear_model import LogisticRegression

from bottleneck.cache import Cache
from bottleneck.records import BankRecord
from bottleneck.solvers import reduce_rows
from bottleneck.solvers.losses import LOSSES
from bottleneck.solvers.path import PathPoint, Preconditioner, fit_path
from bottleneck.solvers.reduction import divisors
from bottleneck.solvers.streamed import gather_moments, stream_path

GRID = [1e-4, 1e-2, 1.0]
FINGERPRINT = "ab" * 32


def problem(classes: int, dtype: type = np.float32) -> tuple[np.ndarray, np.ndarray]:
    """Rows whose columns differ in level and width, one of them constant."""
    generator = np.random.default_rng(0)
    X = np.maximum(generator.standard_normal((500, 20)), 0) * generator.uniform(0.5, 5, 20)
    X += generator.uniform(-3, 3, 20)
    X[:, 4] = 3.3
    scores = (X - X.mean(axis=0)) @ generator.standard_normal((20, classes))
    scores += 2 * scores.std() * generator.standard_normal(scores.shape)
    return X.astype(dtype), scores.argmax(axis=1)


def reader(X: np.ndarray, *edges: int) -> Callable[[], Iterator[np.ndarray]]:
    return lambda: iter(np.split(X, edges))


def folds_of(count: int) -> np.ndarray:
    """Three folds with rows held out, and weights that are no whole numbers."""
    generator = np.random.default_rng(1)
    fit = np.arange(count)[:, None] % 4 != np.arange(3)
    return fit * generator.uniform(0.5, 2, (count, 1))


def expected(
    X: np.ndarray, y: np.ndarray, counts: np.ndarray, loss: str, *, standardize: bool
) -> Iterator[tuple[PathPoint, np.ndarray]]:
    """Yield what is found in memory for each C, and its scores."""
    reduction = reduce_rows(X.astype(np.float64), counts > 0, standardize=standardize)
    for point in fit_path(reduction.rows, y, counts[:, None], GRID, loss):
        weight, bias = reduction.lift(point.weight[0], point.bias[0], X)
        yield point, X @ weight.T + bias


@pytest.mark.parametrize("standardize", [True, False])
@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("loss", LOSSES)
def test_solutions_are_those_found_in_memory(loss, classes, standardize):
    """For every C and fold, objectives within 1e-6 and scores within 1e-2 of their spread."""
    X, y = problem(classes)
    counts = folds_of(len(X))
    found = stream_path(
        reader(X, 100, 101, 333), y, counts, GRID, loss, standardize=standardize, tolerance=1e-6
    )
    assert [point.C for point in found] == GRID
    for fold in range(3):
        own = expected(X, y, counts[:, fold], loss, standardize=standardize)
        for point, (reference, scores) in zip(found, own, strict=True):
            assert point.converged.all()
            assert np.allclose(point.objective[fold], reference.objective[0], rtol=1e-6)
            ours = X @ point.weight[fold].T + point.bias[fold]
            assert np.abs(ours - scores).max() < 1e-2 * scores.std()


def test_the_default_tolerance_is_within_a_thousandth():
    X, y = problem(4)
    counts = folds_of(len(X))
    for loss in LOSSES:
        found = stream_path(reader(X), y, counts, GRID, loss)
        for fold in range(3):
            own = expected(X, y, counts[:, fold], loss, standardize=True)
            for point, (reference, _) in zip(found, own, strict=True):
                assert point.converged.all()
                assert np.allclose(point.objective[fold], reference.objective[0], rtol=1e-3)


def test_softmax_weights_sum_to_nothing():
    """With any tolerance, because a common shift of all classes changes no probability."""
    X, y = problem(4)
    (point,) = stream_path(reader(X), y, folds_of(500), [1.0], "softmax", tolerance=0.1)
    assert np.abs(point.weight).max() > 0.1
    assert np.abs(point.weight.sum(axis=1)).max() < 1e-5


def test_scores_are_those_of_scikit_learn():
    X, y = problem(3)
    Z = LeastScaler().fit_transform(X.astype(np.float64))
    for C in GRID:
        (point,) = stream_path(reader(X), y, np.ones((len(X), 1)), [C], "softmax", tolerance=1e-8)
        plain = LogisticRegression(C=C, tol=1e-10, max_iter=10_000).fit(Z, y)
        ours, theirs = X @ point.weight[0].T + point.bias[0], plain.decision_function(Z)
        apart = ours - theirs - (ours - theirs).mean(axis=1, keepdims=True)
        assert np.abs(apart).max() < 1e-3


def test_float16_blocks_of_any_size_give_the_same():
    X, y = problem(3, np.float16)
    counts = folds_of(len(X))
    expected = stream_path(reader(X.astype(np.float32)), y, counts, GRID, "softmax", tolerance=1e-6)
    for edges in ([1, 2, 490], range(7, 500, 7)):
        found = stream_path(reader(X, *edges), y, counts, GRID, "softmax", tolerance=1e-6)
        for point, same in zip(found, expected, strict=True):
            assert np.allclose(point.objective, same.objective, rtol=1e-6)


def test_rows_may_be_read_only():
    X, y = problem(2)
    X.flags.writeable = False
    (point,) = stream_path(reader(X), y, np.ones((500, 1)), [1.0], "logistic")
    assert point.converged.all()


@pytest.mark.parametrize("loss", LOSSES)
def test_problems_that_do_not_fit_together_have_the_same_solutions(loss):
    """Solved one at a time, each from the solution for the next smaller C, in less memory."""
    X, y = problem(4)
    counts = folds_of(len(X))
    whole = stream_path(reader(X), y, counts, GRID, loss, tolerance=1e-6)
    parts = stream_path(reader(X), y, counts, GRID, loss, tolerance=1e-6, most_bytes=1)
    for point, same in zip(parts, whole, strict=True):
        assert np.allclose(point.objective, same.objective, rtol=2e-6)


def test_a_grid_may_stand_in_any_order_and_twice():
    X, y = problem(3)
    points = stream_path(reader(X), y, np.ones((500, 1)), [1.0, 1e-4, 1.0], "softmax")
    assert [point.C for point in points] == [1.0, 1e-4, 1.0]
    assert np.array_equal(points[0].weight, points[2].weight)


def test_each_label_of_several_is_a_problem_of_its_own():
    X, _ = problem(2)
    labels = np.random.default_rng(0).random((500, 3)) < 0.3
    ones = np.ones((500, 1))
    (together,) = stream_path(reader(X), labels, ones, [0.1], "logistic", tolerance=1e-6)
    for k in range(3):
        (alone,) = stream_path(
            reader(X), labels[:, k].astype(int), ones, [0.1], "logistic", tolerance=1e-6
        )
        assert np.allclose(together.objective[:, k], alone.objective[:, 0], rtol=1e-6)


def test_steps_that_bring_too_little_are_shortened():
    """Squared hinges of separable classes, with a large C."""
    generator = np.random.default_rng(0)
    X = generator.standard_normal((300, 10)).astype(np.float32)
    y = (X @ generator.standard_normal((10, 3)) * 3).argmax(axis=1)
    ones = np.ones((300, 1))
    (point,) = stream_path(reader(X), y, ones, [100.0], "squared_hinge", tolerance=1e-6)
    reduction = reduce_rows(X)
    (reference,) = fit_path(reduction.rows, y, ones, [100.0], "squared_hinge")
    assert point.converged.all()
    assert np.allclose(point.objective, reference.objective, rtol=1e-5)


def test_rows_beyond_every_margin_do_not_upset_what_bends():
    """A squared hinge may have no row within its margin, so that only the penalty is curved."""
    X = np.array([[-1.0], [-1.0], [1.0], [1.0]], dtype=np.float32)
    y = np.array([0, 0, 1, 1])
    (point,) = stream_path(reader(X), y, np.ones((4, 1)), [1e6], "squared_hinge", tolerance=1e-6)
    assert point.converged.all()
    assert np.allclose(X @ point.weight[0].T + point.bias[0], 2 * y[:, None] - 1, atol=1e-2)


def test_an_error_of_the_reader_comes_through():
    X, y = problem(2)

    def read() -> Iterator[np.ndarray]:
        yield X[:200]
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        stream_path(read, y, np.ones((500, 1)), [1.0], "logistic")


def test_an_error_while_several_are_solved_comes_through():
    """It ends the threads of all folds and values of C."""
    X, y = problem(3)
    begun: list[int] = []

    def read() -> Iterator[np.ndarray]:
        begun.append(1)
        yield X[:200]
        if len(begun) > 4:
            raise OSError("gone")
        yield X[200:]

    with pytest.raises(OSError, match="gone"):
        stream_path(read, y, folds_of(500), GRID, "softmax")


def failing() -> None:
    raise ValueError("not solved")


def interrupting() -> None:
    """A signal comes while the main thread waits for a step."""
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
    time.sleep(0.2)


@pytest.fixture
def interruptible():
    """Workers of pytest-xdist ignore SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("event", "raised"), [(failing, ValueError), (interrupting, KeyboardInterrupt)]
)
def test_what_happens_in_one_step_ends_all_at_once(event, raised, monkeypatch):
    """Without a further pass, and without a thread that waits."""
    X, y = problem(3)
    passes, steps = [0], [0]
    multiply, threads = Preconditioner.multiply, threading.active_count()

    def read() -> Iterator[np.ndarray]:
        passes.append(steps[-1])
        yield X

    def step(self, *arguments, **options):
        steps.append(len(steps))
        if len(steps) == 60:
            event()
        return multiply(self, *arguments, **options)

    monkeypatch.setattr(Preconditioner, "multiply", step)
    with pytest.raises(raised):
        stream_path(read, y, folds_of(500), GRID, "softmax")
    assert len(passes) > 3
    assert passes[-1] < 60 <= len(steps) < 70
    assert threading.active_count() == threads


@pytest.mark.timeout(60)
def test_a_thread_that_cannot_start_ends_the_others(monkeypatch):
    X, y = problem(3)
    start, threads = threading.Thread.start, threading.active_count()

    def second_fails(self):
        if threading.active_count() > threads:
            raise RuntimeError("can't start new thread")
        start(self)

    monkeypatch.setattr(threading.Thread, "start", second_fails)
    with pytest.raises(RuntimeError, match="can't start"):
        stream_path(reader(X), y, folds_of(500), GRID, "softmax")
    assert threading.active_count() == threads


def test_folds_and_values_of_c_share_passes():
    """All together take about as many as the one that takes the most alone."""
    X, y = problem(3)
    counts = folds_of(500)
    begun: list[int] = []

    def read() -> Iterator[np.ndarray]:
        begun.append(1)
        yield X

    alone = []
    for C in GRID:
        for fold in range(3):
            stream_path(read, y, counts[:, [fold]], [C], "softmax")
            alone.append(len(begun))
            begun.clear()
    stream_path(read, y, counts, GRID, "softmax")
    assert len(begun) <= 1.2 * max(alone)


def test_moments_are_those_of_a_reduction():
    """With means much larger than deviations, and with variance only in held-out rows."""
    generator = np.random.default_rng(0)
    X = generator.standard_normal((400, 6)) + np.array([0, 1e4, -1e6, 0, 0, 0])
    X[:, 3] = 1 / 3
    X = X.astype(np.float32)
    fit = generator.random((400, 2)) < 0.7
    X[fit[:, 0], 4] = 0.1
    blocks = np.split(X, [1, 251])
    scalers, sample = gather_moments(iter(blocks), fit, 1000, standardize=True)
    for fold, found in enumerate(scalers):
        reference = reduce_rows(X, fit[:, fold])
        scale = divisors(found.mean_, np.sqrt(found.var_))
        assert np.allclose(scale, reference.scale, rtol=1e-6)
        assert np.allclose(found.mean_, reference.mean, rtol=1e-6)
        varied = np.sqrt(found.var_)[[0, 1, 2, 5] if fold == 0 else [0, 1, 2, 4, 5]]
        assert scale[3] == pytest.approx(np.median(varied) / 2)
    assert [found.n_samples_seen_ for found in scalers] == fit.sum(axis=0).tolist()
    assert sample.shape == (1000 // 24, 6)
    counts = fit * generator.integers(1, 4, (400, 1)).astype(float)
    scalers, _ = gather_moments(iter(blocks), counts, 1000, standardize=True)
    scale = divisors(scalers[1].mean_, np.sqrt(scalers[1].var_))
    assert np.allclose(scale, reduce_rows(X, counts[:, 1]).scale, rtol=1e-6)
    scalers, _ = gather_moments(iter(blocks), fit, 1000, standardize=False)
    assert all(found.var_ is None for found in scalers)


FIT = """
import json, sys
import numpy as np
from bottleneck.cache import Cache
from bottleneck.records import BankRecord
from bottleneck.solvers.streamed import stream_path


def peak():
    with open("/proc/self/status") as status:
        return int(status.read().partition("VmHWM:")[2].split()[0]) * 1024


bank = Cache(sys.argv[1]).bank("base", "ab" * 32)
digests = [f"{number:064x}" for number in range(60_000)]
labels = np.load(sys.argv[2])
counts = np.ones((60_000, 1))
read = lambda: bank.stream("layer", digests, memory=40 * 10**6)
few = lambda: (block[:50] for block in [next(bank.stream("layer", digests[:50]))])
stream_path(few, labels[:50], counts[:50], [1.0], "softmax")  # what libraries take once
before = peak()
points = stream_path(
    read, labels, counts, [1e-4, 1e-2], "softmax", tolerance=1e-2, most_bytes=50 * 10**6
)
print(json.dumps([peak() - before, all(point.converged.all() for point in points)]))
"""


@pytest.mark.ci
@pytest.mark.skipif(sys.platform != "linux", reason="peaks are read from /proc")
def test_memory_stays_below_what_was_allowed(tmp_path):
    """40 MB for blocks and 50 MB for the solver, where the rows are 245 MB as float32."""
    generator = np.random.default_rng(0)
    bank = Cache(tmp_path).bank("base", FINGERPRINT)
    bank.describe(BankRecord.imported(FINGERPRINT, "m", {"layer": [6]}))
    means = generator.standard_normal((3, 1024), dtype=np.float32)
    labels = generator.integers(0, 3, 60_000)
    with bank.writer("float16") as writer:
        for start in range(0, 60_000, 2000):
            X = generator.standard_normal((2000, 1024), dtype=np.float32)
            X += 0.05 * means[labels[start : start + 2000]]
            writer.append([f"{n:064x}" for n in range(start, start + 2000)], {"layer": X})
    np.save(tmp_path / "labels.npy", labels)
    command = [sys.executable, "-c", FIT, str(tmp_path), str(tmp_path / "labels.npy")]
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}  # several wait for each other on busy cores
    finished = subprocess.run(command, check=True, capture_output=True, text=True, env=one_thread)
    growth, converged = json.loads(finished.stdout)
    assert growth < 100 * 10**6
    assert converged


def test_a_bank_is_read_through_its_stream(tmp_path):
    """In the order asked for, which is not the order of its rows."""
    X, y = problem(3, np.float16)
    bank = Cache(tmp_path).bank("base", FINGERPRINT)
    bank.describe(BankRecord.imported(FINGERPRINT, "m", {"layer": [6]}))
    with bank.writer("float16") as writer:
        writer.append([f"{number:064x}" for number in range(500)], {"layer": X})
    order = np.random.default_rng(0).permutation(500)
    digests = [f"{number:064x}" for number in order]
    ones = np.ones((500, 1))
    found = stream_path(
        lambda: bank.stream("layer", digests, memory=5 * 10**6), y[order], ones, GRID, "softmax"
    )
    for point, same in zip(found, stream_path(reader(X), y, ones, GRID, "softmax"), strict=True):
        assert np.allclose(point.objective, same.objective, rtol=1e-4)


def test_badly_scaled_columns_are_not_taken_for_solved():
    """Solvers that stop early report it, and continue."""
    generator = np.random.default_rng(0)
    X = (generator.normal(size=(400, 60)) * np.logspace(-2, 2, 60)).astype(np.float32)
    y = (X[:, 30] / X[:, 30].std() + generator.normal(size=400) > 0).astype(int)
    ones = np.ones((400, 1))
    (ours,) = stream_path(reader(X, 200), y, ones, [1.0], "logistic", standardize=False)
    rows = reduce_rows(X, standardize=False).rows
    (theirs,) = fit_path(rows.astype(np.float64), y, ones, [1.0], "logistic")
    assert ours.objective[0, 0] < theirs.objective[0, 0] * (1 + 1e-3)

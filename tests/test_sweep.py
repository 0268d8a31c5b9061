"""Sweeps: metrics, what is computed again, and kills. About 12 s in the first tier."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import joblib
import numpy as np
import pytest
from scaled import LeastScaler
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline

from bottleneck import (
    Cache,
    ExperimentLog,
    FrozenBase,
    ImageSet,
    SweepSettings,
    extract_features,
    load_features,
    run_sweep,
    select_layers,
)
from bottleneck.errors import DamagedError, DataError, UsageError
from bottleneck.experiments import rank, scores, unselected
from bottleneck.heads import C_GRID, MLP, cross_validate
from bottleneck.heads.prepare import make_problem, recipe_of

LOG = Path("log/experiments.sqlite")


@pytest.fixture
def layers(faces_cache):
    return select_layers(faces_cache)


@pytest.fixture
def small(little, make_images) -> Cache:
    """Two layers of a few images, of which one is a map; and val images."""
    for split, count in (("train", 9), ("val", 4), ("test", 3)):
        make_images(f"data/{split}", seed=count, cat=count, dog=count)
    base = FrozenBase(little, ["second_relu", "flat"], weights="random")
    cache = Cache("cache")
    extract_features(ImageSet.from_folder("data"), base, cache)
    return cache


def metrics_of(experiments) -> list[list[dict[str, float]]]:
    return [each.folds for each in experiments]


def test_folds_are_scored_as_scikit_learn_does(faces_cache, layers):
    """Only on training images, and with other folds in every repetition."""
    sweep = SweepSettings(("softmax",), C=(1e-3, 1.0), repeats=2, seed=5)
    found = run_sweep(faces_cache, layers, ExperimentLog(LOG), sweep)
    train = load_features(faces_cache, layers[0]).split("train")
    order = np.argsort(train.digests)  # which decide on the folds, whatever the files' order
    X, y = train.X[order].astype(np.float64), train.labels[order]
    assert [each.settings["C"] for each in found] == [1e-3, 1.0]
    for experiment in found:
        plain = make_pipeline(
            LeastScaler(), LogisticRegression(C=experiment.settings["C"], max_iter=10_000)
        )
        for repeat in range(2):
            folds = StratifiedKFold(5, shuffle=True, random_state=5 + repeat)
            own = [fold for fold in experiment.folds if fold["repeat"] == repeat]
            assert [fold["fold"] for fold in own] == [0, 1, 2, 3, 4]
            assert sum(fold["images"] for fold in own) == len(train) == 160
            theirs = cross_val_score(plain, X, y, cv=folds)
            assert [fold["accuracy"] for fold in own] == pytest.approx(
                theirs.tolist(),
                abs=0.04,  # an image may lie on the boundary
            )


@pytest.mark.parametrize("clf", ["softmax", "svm", "lda", "centroid", "knn"])
def test_noise_is_classified_at_chance(clf):
    """Margins do not profit from a temperature fitted on the judged rows."""
    generator = np.random.default_rng(0)
    X = generator.normal(size=(300, 100)).astype(np.float32)
    y = np.repeat(["a", "b"], 150)
    recipe = recipe_of(clf)
    problem = make_problem(X, y, recipe)
    value = {"C": 1.0, "n_neighbors": 5}.get(recipe.parameter)
    (folds,) = cross_validate(problem, recipe, problem.folds(5), [value])
    losses = [fold["log_loss"] for fold in folds]
    assert np.mean(losses) == pytest.approx(np.log(2), abs=0.06)
    assert np.mean(losses) > np.log(2) - 0.005


def test_settings_say_all(faces_cache, layers):
    (experiment,) = run_sweep(faces_cache, layers, ExperimentLog(LOG), SweepSettings(("lda",)))
    settings = experiment.settings
    assert settings["clf"] == "lda"
    assert "C" not in settings
    features = load_features(faces_cache, layers[0])
    provenance = features.provenance.as_dict()
    assert {name: settings[name] for name in provenance} == provenance
    assert settings["cv"] == 5
    assert experiment.environment["scikit-learn"]


def test_experiments_in_the_log_are_not_run_again(faces_cache, layers):
    log, counts = ExperimentLog(LOG), []

    def tell(_stage: str, _done: int, total: int) -> None:
        counts.append(total)

    def run(sweep: SweepSettings) -> list:
        return run_sweep(faces_cache, layers, log, sweep, progress=tell)

    first = run(SweepSettings(("ridge", "lda"), C=(0.1, 1.0)))
    assert counts[-1] == 10
    counts.clear()
    assert run(SweepSettings(("ridge", "lda"), C=(0.1, 1.0))) == first
    assert counts == [0]
    more = run(SweepSettings(("ridge", "lda", "centroid"), C=(0.1, 0.5, 1.0)))
    assert counts[-1] == 10
    assert len(more) == 5
    assert [each for each in more if each in first] == first
    alone = run_sweep(
        faces_cache, layers, ExperimentLog("other.sqlite"), SweepSettings(("ridge",), C=(0.5,))
    )
    assert metrics_of(alone) == metrics_of([more[1]])


@pytest.mark.parametrize("clf", ["softmax", "lda", "knn"])
def test_the_choice_for_a_fold_does_not_see_it(clf):
    """Other features and labels of its images change no score on the folds within."""
    generator, found = np.random.default_rng(0), []
    X, y = generator.normal(size=(40, 60)).astype(np.float32), np.arange(40) % 2
    recipe = recipe_of(clf)
    problem = make_problem(X, y, recipe)
    fold = problem.folds(5)[2]
    for other in (False, True):
        if other:
            problem.X[fold.held] += 5
            problem.targets.codes[fold.held] = 1 - problem.targets.codes[fold.held]
        inner = problem.folds_within(fold, 3)
        assert not any((each.fit | each.held)[fold.held].any() for each in inner)
        assert sum(each.held.astype(int) for each in inner).tolist() == fold.fit.tolist()
        scored = cross_validate(problem.reduced(fold), recipe, inner, recipe.grid[:3])
        found.append([list(each.values()) for own in scored for each in own])
    assert np.allclose(*found, rtol=1e-3)


@pytest.mark.parametrize("clf", ["softmax", "svm", "lda", "centroid", "knn"])
def test_a_reduction_of_its_own_changes_no_score(clf):
    """That of a fold serves the folds within; lda shrinks as in all dimensions."""
    generator = np.random.default_rng(0)
    X, y = generator.normal(size=(40, 90)).astype(np.float32), np.arange(40) % 3
    recipe = recipe_of(clf)
    problem = make_problem(X, y, recipe)
    for fold in problem.folds(3):
        ours, theirs = (
            list(recipe.held_out(each, [fold], recipe.grid[:3]))
            for each in (problem.reduced(fold), problem)
        )
        assert np.allclose(ours, theirs, atol=1e-3)


def test_experiments_have_scores_on_folds_within(faces_cache, layers):
    """Unless a class has too few images for them."""
    (found,) = run_sweep(faces_cache, layers, LOG, clfs=("lda",), cv=3)
    for fold in found.folds:
        assert 0.5 < fold["inner_accuracy"] <= 1
        assert {f"inner_{name}" for name in ("accuracy", "log_loss")} < set(fold)
    assert "inner_accuracy" not in scores(found)


def test_values_that_overfit_are_not_fitted_on_folds_within(faces_cache, layers):
    """They say so in the log, and the choice is one of the others."""
    found = run_sweep(faces_cache, layers, LOG, clfs=("softmax",), cv=3)
    assert [each.settings["C"] for each in found] == list(C_GRID)
    tried = [["inner_accuracy" in fold for fold in each.folds] for each in found]
    skipped = [["inner_skipped" in fold for fold in each.folds] for each in found]
    assert np.logical_xor(tried, skipped).all()
    assert all(0 < fold.sum() < len(C_GRID) for fold in np.transpose(tried))
    assert set(scores(found[-1])) == set(scores(found[0]))
    number, score = unselected(rank(found), "accuracy")
    assert number == len(C_GRID)
    assert 0.5 < score <= 1


@pytest.mark.parametrize("backend", ["loky", "threading", "multiprocessing"])
def test_every_backend_finds_the_same(faces_cache, layers, backend):
    sweep = SweepSettings(("ridge", "centroid"), C=(0.1,))
    with joblib.parallel_config(backend, n_jobs=2):
        found = run_sweep(faces_cache, layers, ExperimentLog(LOG), sweep)
    alone = run_sweep(faces_cache, layers, ExperimentLog("other.sqlite"), sweep)
    for ours, theirs in zip(found, alone, strict=True):
        for fold, other in zip(ours.folds, theirs.folds, strict=True):
            assert fold == pytest.approx(other, rel=1e-5)


def test_layers_and_poolings_are_all_tried(small):
    selections = select_layers(small, pools=["avg", "max"])
    assert [(each.layer, each.pool) for each in selections] == [
        ("second_relu", "avg"),
        ("flat", "none"),
        ("second_relu", "max"),
    ]
    found = run_sweep(
        small, selections, ExperimentLog(LOG), SweepSettings(("centroid", "lda"), cv=3)
    )
    tried = [
        (each.settings["layer"], each.settings["pool"], each.settings["clf"]) for each in found
    ]
    assert tried == [
        (each.layer, each.pool, clf) for each in selections for clf in ("centroid", "lda")
    ]
    assert len({json.dumps(each.folds) for each in found}) > 1
    assert {fold["images"] for each in found for fold in each.folds} == {6}


def test_val_images_are_held_out_where_there_are_any(small):
    selections = select_layers(small, layers=["flat"])
    log = ExperimentLog(LOG)
    (held,) = run_sweep(small, selections, log, SweepSettings(("lda",)))
    with pytest.raises(UsageError, match="the val images are held out once; give `cv"):
        run_sweep(small, selections, log, SweepSettings(("lda",), repeats=3))
    assert [fold["images"] for fold in held.folds] == [8]
    assert held.settings["cv"] == held.settings["repeats"] == 1
    (folds,) = run_sweep(small, selections, log, SweepSettings(("lda",), cv=3))
    assert [fold["images"] for fold in folds.folds] == [6, 6, 6]


def test_mistakes_are_reported_before_anything_is_computed(small):
    log = ExperimentLog(LOG)
    selections = select_layers(small)
    with pytest.raises(DataError, match="'cat': 9, 'dog': 9.*, but 10 folds need 10; add"):
        run_sweep(small, selections, log, SweepSettings(("lda",), cv=10))
    for wrong in ({"cv": 1}, {"repeats": 0}, {"C": (0.0,)}, {"C": (float("nan"),)}):
        with pytest.raises(UsageError, match=f"`{next(iter(wrong))}` must be .*, got"):
            SweepSettings(**wrong)
    assert not LOG.exists()


def test_paths_and_keywords_do_as_well(small):
    layers = select_layers(small)
    found = run_sweep(str(small.root), layers, str(LOG), clfs=("lda", "centroid"), cv=3)
    settings = SweepSettings(("lda", "centroid"), cv=3)
    assert run_sweep(small, layers, ExperimentLog(LOG), settings) == found
    for wrong in (None, layers):
        with pytest.raises(TypeError, match="^`cache` must be Cache, str or Path, got ") as raised:
            run_sweep(wrong, layers, LOG)
        assert isinstance(raised.value, UsageError)
    with pytest.raises(TypeError, match=r"^`selections` must be the result of .*select_layers"):
        run_sweep(small, "flat", LOG)


KILLED = """
import sys
from bottleneck import Cache, ExperimentLog, SweepSettings, run_sweep, select_layers

def tell(stage, done, total):
    print(done, flush=True)

cache = Cache(sys.argv[1])
sweep = SweepSettings(("lda", "ridge", "centroid", "knn", "softmax"), C=(0.1, 1.0))
run_sweep(cache, select_layers(cache), ExperimentLog(sys.argv[2]), sweep, jobs=2, progress=tell)
"""


@pytest.mark.ci
@pytest.mark.parametrize(
    "number", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.ci)]
)
def test_a_sweep_that_was_killed_goes_on(faces_cache, layers, number):
    command = [sys.executable, "-c", KILLED, str(faces_cache.root), str(LOG)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if int(line) == 12:
                process.send_signal(number)
                break
        process.wait(timeout=60)
    log = ExperimentLog(LOG)
    before = log.experiments()
    assert 1 <= len(before) < 12
    counts = []

    def tell(_stage: str, _done: int, total: int) -> None:
        counts.append(total)

    sweep = SweepSettings(("lda", "ridge", "centroid", "knn", "softmax"), C=(0.1, 1.0))
    found = run_sweep(faces_cache, layers, log, sweep, progress=tell)
    assert counts[-1] < 25
    assert [each for each in found if each in before] == sorted(before, key=found.index)
    whole = run_sweep(faces_cache, layers, ExperimentLog("other.sqlite"), sweep)
    assert len(found) == len(whole) == 12
    for ours, theirs in zip(found, whole, strict=True):
        assert ours.settings == theirs.settings
        for fold, other in zip(ours.folds, theirs.folds, strict=True):
            assert fold == pytest.approx(other, rel=1e-4)


@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")  # MLflow's own use of it
def test_the_command_logs_every_experiment_once(bottleneck, faces_cache):
    asked = ("--cache", faces_cache.root, "--clf", "ridge", "--clf", "centroid")
    done = bottleneck("sweep", *asked, "--C", "auto", "--jobs", 1, "--mlflow", "sqlite:///ml.db")
    assert done.code == 0
    assert f"{len(C_GRID) + 1} experiments, {len(C_GRID) + 1} of them new" in done.err
    assert "9 experiments logged to sqlite:///ml.db" in done.err
    assert Path("ml.db").exists()
    assert "centroid" in done.out
    again = bottleneck("sweep", *asked, "--jobs", 1, "--json")
    assert "9 experiments, 0 of them new" in again.err
    best = json.loads(again.out)[0]
    table = bottleneck("leaderboard", "--json", "--top", 1)
    assert json.loads(table.out) == [best]
    paired = json.loads(bottleneck("leaderboard", "--compare", 1, 9, "--json").out)
    assert paired["folds"] == 5
    low, high = paired["interval"]
    assert low <= paired["difference"] <= high


def test_experiments_are_shown_with_the_name_that_was_typed(bottleneck, faces_cache):
    """Another name of the layer is no other experiment."""
    asked = ("--cache", faces_cache.root, "--clf", "centroid", "--jobs", 1)
    for name, new in (("penultimate", 1), ("global_pool.flatten", 0)):
        done = bottleneck("sweep", *asked, "--layer", name)
        assert f"1 experiment, {new} of them new" in done.err
        assert name in done.out
    for name in ("penultimate", "global_pool.flatten"):
        assert "penultimate" in bottleneck("leaderboard", "--where", f"layer={name}").out
    assert "no experiments" in bottleneck("leaderboard", "--where", "layer=last_conv").out


@pytest.mark.usefixtures("small")
def test_neighbours_and_hidden_units_are_given(bottleneck):
    tried = ("--clf", "knn", "--neighbors", 1, "--neighbors", 5, "--clf", "mlp", "--hidden", 4)
    where = ("--layer", "flat", "--cv", 2, "--jobs", 1, "--json")
    found = json.loads(bottleneck("sweep", *where, *tried, "--hidden", 8).out)
    values = {(each["settings"]["clf"], each["settings"].get("n_neighbors"),
               each["settings"].get("hidden")) for each in found}  # fmt: skip
    assert values == {("knn", 1, None), ("knn", 5, None), ("mlp", None, 4), ("mlp", None, 8)}


def test_workers_report_damage(small):
    part = max(Path("cache").glob("*/parts/*.h5"), key=lambda path: path.stat().st_size)
    content = bytearray(part.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 4000] = bytes(4000)
    part.chmod(0o644)
    part.write_bytes(content)
    with pytest.raises(DamagedError, match="is damaged .*; run 'bottleneck cache verify'"):
        run_sweep(small, select_layers(small), ExperimentLog(LOG), SweepSettings(("lda",)), jobs=2)


def test_layers_of_two_image_sets_are_not_mixed(small, little, make_images):
    images = ImageSet.from_folder(make_images("other", cat=4, dog=4))
    extract_features(images, FrozenBase(little, ["first_relu"], weights="random"), small)
    with pytest.raises(
        UsageError, match="several image sets: data, other; choose one with `image_set"
    ):
        select_layers(small, layers=["first_relu", "second_relu"])


def test_hidden_units_are_not_ignored_beside_a_network(faces_cache, layers):
    wrong = SweepSettings(clfs=(MLP(hidden=32),), hidden=(64,))
    with pytest.raises(UsageError, match="`hidden` applies only to mlp, given by its name"):
        run_sweep(faces_cache, layers, ExperimentLog(LOG), wrong)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--C", "many"), "--C must be auto alone, or numbers from 1e-10 to 1e+10, got 'many'"),
        (("--C", "auto", "--C", "1"), "--C must be auto alone"),
        (("--C", "0"), "--C must be auto alone, or numbers from 1e-10 to 1e+10, got '0'"),
        (("--clf", "lda", "--C", "1"), "--C does not apply to lda; leave it out, or add a"),
        (
            ("--clf", "knn", "--neighbors", "0"),
            "--neighbors must be a whole number of at least 1, got '0'",
        ),
        (
            ("--neighbors", "3"),
            "--neighbors does not apply to softmax; leave it out, or add a classifier that",
        ),
        (
            ("--hidden", "3"),
            "--hidden applies only to mlp, given by its name; leave it out, or give --clf mlp",
        ),
        (("--clf", "smv"), "knn or mlp, got 'smv'; did you mean 'svm'?"),
        (("--jobs", "0"), "--jobs must be at least 1, or -1 for one process per core"),
        (("--mlflow", "nowhere://"), "MLflow cannot log to 'nowhere://'"),
        (("--log", "/proc/none/log.sqlite"), "cannot be used"),
        (("--cv", "1000"), "1000 folds need 1000; add images"),
        (("--backend", "loki"), "joblib has no backend 'loki' here"),
        (("--layer", "block9"), "no extraction with layer 'block9'"),
    ],
)
def test_invalid_options_are_refused_in_one_sentence(bottleneck, faces_cache, arguments, sentence):
    done = bottleneck("sweep", "--cache", faces_cache.root, "--jobs", 1, *arguments)
    assert done.code in {1, 2}
    assert sentence in done.err
    assert "Traceback" not in done.err

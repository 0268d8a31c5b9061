"""Who may import whom, and what a plain import loads."""

import ast
import re
import subprocess
import sys
import tomllib
from itertools import chain
from pathlib import Path

import pytest

import bottleneck
from bottleneck import fit_head, load_features, select_features
from bottleneck.experiments import ExperimentLog, environment

PACKAGE = Path(bottleneck.__file__).parent
LEAVES = {"errors", "files", "labels"}
ALLOWED = {
    "errors": set(),
    "files": set(),
    "labels": set(),
    "images": LEAVES,
    "pooling": {"errors"},
    "augment": {"errors"},
    "bases": LEAVES | {"pooling"},
    "cache": LEAVES,
    "solvers": LEAVES,
    "demo": LEAVES,
    "experiments": LEAVES,
    "extract": LEAVES | {"images", "augment", "bases", "cache"},
    "features": LEAVES | {"images", "cache", "pooling"},
    "exchange": LEAVES | {"images", "cache", "features"},
    "heads": LEAVES | {"solvers"},
    "evaluate": LEAVES | {"features", "heads"},
    "advise": LEAVES | {"bases", "cache", "features", "solvers", "heads", "experiments"},
    "sweep": LEAVES | {"images", "cache", "features", "solvers", "heads", "experiments"},
    "predict": LEAVES | {"images", "augment", "bases", "cache", "extract", "features", "heads"},
    "finetune": LEAVES
    | {"pooling", "images", "augment", "bases", "cache", "extract"}
    | {"features", "heads", "predict"},
    "report": LEAVES | {"advise", "evaluate"},
    "transformer": LEAVES | {"images", "pooling", "bases", "cache", "extract"},
}


def imported_by(module: str) -> set[str]:
    """Names of our modules that a module, or a package's files, import."""
    files = [PACKAGE / f"{module}.py", *(PACKAGE / module).glob("*.py")]
    found = set()
    for file in filter(Path.exists, files):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("bottleneck."):
                found.add(node.module.split(".")[1])
    return found - {module}


@pytest.mark.parametrize("module", sorted(ALLOWED))
def test_a_module_imports_only_what_the_design_allows(module):
    assert imported_by(module) <= ALLOWED[module]


def test_the_table_names_every_module():
    modules = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py"}
    packages = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert (modules | packages) - {"__init__", "__main__"} == {*ALLOWED, "cli"}


def run_python(code: str, *options: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *options, "-c", code], capture_output=True, text=True, check=False
    )


def test_plain_import_and_help_load_neither_torch_nor_scikit_learn():
    code = """
import sys, bottleneck
from bottleneck.cli import main
try:
    main(["--help"])
except SystemExit:
    pass
loaded = {"torch", "torchvision", "timm", "sklearn", "h5py", "numpy", "PIL"} & set(sys.modules)
assert not loaded, loaded
"""
    finished = run_python(code)
    assert finished.returncode == 0, finished.stderr
    assert "extract" in finished.stdout


REFUSED = """
from bottleneck.errors import BottleneckError
try:
    {}
except BottleneckError:
    pass
else:
    raise AssertionError("not refused")
"""
COMMAND = """
from bottleneck.cli import main
try:
    main({})
except SystemExit as ended:
    assert not ended.code, ended.code
"""
EVALUATED = """
from bottleneck import Cache, evaluate_head, features_of
from bottleneck.bases import is_finetuned, seen_digests
from bottleneck.heads import find_head
head = find_head("heads", {!r})[1]
assert not is_finetuned(head.source["model"]) and not seen_digests(head.source["model"])
evaluate_head(head, features_of(head.source, Cache("cache"), split="test"))
"""
UNTIL_THE_FIRST_FOLD = """
from bottleneck import Cache, fit_head, load_features, select_features
from bottleneck.bases import device_names
from bottleneck.heads.recipes import Iterated

class Begun(Exception):
    pass

def begin(_, problem, folds, grid):
    assert len(folds) == 5
    raise Begun

Iterated.held_out = begin
train = load_features(Cache("cache"), select_features(Cache("cache"))).training()
try:
    fit_head(train.X, train.labels, groups=train.digests, device=device_names("cpu")[0])
except Begun:
    pass
else:
    raise AssertionError("no fold began")
assert not {"sklearn", "pandas"} & set(sys.modules)
"""
WITHOUT_TORCH = {
    "cache": "import bottleneck.cache",
    "heads": "import bottleneck.heads; assert 'h5py' not in sys.modules",
    "stages": "import bottleneck.advise, bottleneck.augment, bottleneck.evaluate, "
    "bottleneck.exchange, bottleneck.extract, bottleneck.predict, bottleneck.report, "
    "bottleneck.sweep",
    "models": COMMAND.format(["models"]),
    "leaderboard": COMMAND.format(["leaderboard"]),
    "cache ls": COMMAND.format(["cache", "ls"]),
    "missing folder": REFUSED.format("from bottleneck import ImageSet; ImageSet.open('data')"),
    "unknown head": REFUSED.format("from bottleneck.heads import find_head; find_head('heads')"),
    "unknown model": REFUSED.format("from bottleneck.bases import find_model; find_model('vgg61')"),
    "unknown device": REFUSED.format("import bottleneck.bases as b; b.find_devices('gpu')"),
    "first fold": UNTIL_THE_FIRST_FOLD,
    **{f"evaluate {clf}": EVALUATED.format(clf) for clf in ("softmax", "centroid", "knn", "mlp")},
}


@pytest.fixture(scope="module")
def with_heads(faces_cache, tmp_path_factory) -> Path:
    """A folder with a cache, heads of all kinds and a log of one experiment."""
    folder = tmp_path_factory.mktemp("heads")
    (folder / "cache").symlink_to(faces_cache.root)
    features = load_features(faces_cache, select_features(faces_cache))
    rows = features.training()
    for clf in ("softmax", "centroid", "knn", "mlp"):
        head = fit_head(rows.X, rows.labels, clf, groups=rows.digests, source=features.provenance)
        head.save(folder / "heads" / clf)
    folds = [{"repeat": 0, "fold": fold, "images": 40, "accuracy": 0.9} for fold in range(5)]
    ExperimentLog(folder / "experiments.sqlite").append({"clf": "svm"}, folds, 1.5, environment())
    return folder


@pytest.mark.parametrize("code", WITHOUT_TORCH.values(), ids=WITHOUT_TORCH.keys())
def test_what_runs_no_network_loads_neither_torch_nor_what_needs_it(code, with_heads, monkeypatch):
    monkeypatch.chdir(with_heads)
    heavy = """
loaded = {"torch", "torchvision", "timm"} & set(sys.modules)
assert not loaded, loaded
"""
    finished = run_python(f"import sys\n{code}\n{heavy}")
    assert finished.returncode == 0, finished.stderr


@pytest.mark.parametrize("clf", ["softmax", "mlp"])
def test_small_problems_have_one_thread_also_where_torch_is_loaded_late(clf):
    code = f"""
import sys
import numpy as np
from bottleneck.heads import fit_head
from bottleneck.solvers import threads
limits, loaded = threads.threadpool_limits, []

def watched(count):
    loaded.append("torch" in sys.modules)
    return limits(count)

threads.threadpool_limits = watched
fit_head(np.random.default_rng(0).normal(size=(40, 3)), np.arange(40) % 2, {clf!r})
assert not loaded[0] and loaded[-1], loaded
"""
    finished = run_python(code)
    assert finished.returncode == 0, finished.stderr


def test_pandas_works_beside_this_package():
    """Pandas looks for another package of the same import name; ours must not upset it."""
    code = """
import bottleneck
import pandas
frame = pandas.DataFrame({"a": [1.0, None, 4.0]})
assert frame["a"].mean() == 2.5 and frame["a"].sum() == 5.0
"""
    finished = run_python(code, "-W", "error")
    assert finished.returncode == 0, finished.stderr
    assert not finished.stderr


def test_every_public_name_resolves():
    for name in bottleneck.__all__:
        assert getattr(bottleneck, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nansum'"):
        bottleneck.nansum  # noqa: B018 - the access itself is tested


def test_public_names_are_not_hidden_by_modules():
    """Importing a module of a package sets its name there, over anything of the same name."""
    modules = {path.stem for path in PACKAGE.iterdir()}
    assert not modules & set(bottleneck.__all__)


def test_the_minimum_versions_are_those_promised():
    root = PACKAGE.parent
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    wanted = [*project["dependencies"], *chain.from_iterable(extras)]
    floors = dict(one.split(">=") for one in wanted if ">=" in one)
    pinned = dict(
        re.findall(r"^([\w-]+)==(\S+)$", (root / "tests/minimum.txt").read_text(), re.MULTILINE)
    )
    for name, floor in floors.items():
        assert re.fullmatch(rf"{re.escape(floor)}(\.0)*", pinned[name]), name

"""Which modules may import each other, and what a plain import loads.

About 25 s in the first tier.
"""

import ast
import importlib
import inspect
import re
import subprocess
import sys
import tomllib
from graphlib import CycleError, TopologicalSorter
from itertools import chain
from pathlib import Path
from types import ModuleType

import pytest

import bottleneck
from bottleneck import ExperimentLog, fit_head, load_features
from bottleneck.cli.command import COMMANDS
from bottleneck.experiments import environment

PACKAGE = Path(bottleneck.__file__).parent
CONTRIBUTING = (PACKAGE.parent / "CONTRIBUTING.md").read_text()
FLOORS = [
    re.findall(r"`(\w+)`(?: \([^)]*\))?", rooms)
    for rooms in re.findall(r"^\| \d+ \| (.*) \|$", CONTRIBUTING, re.MULTILINE)
]


def modules_imported_by(file: Path) -> set[str]:
    """Modules of ours that a file imports, anywhere in it, as ``heads.fit``."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("bottleneck"):
            continue
        place = node.module.removeprefix("bottleneck").removeprefix(".")
        inner = PACKAGE.joinpath(*place.split("."))
        submodules = {
            f"{place}.{each.name}".strip(".")
            for each in node.names
            if (inner / f"{each.name}.py").exists() or (inner / each.name).is_dir()
        }
        found |= submodules or {place}
    return found


def name_of(file: Path) -> str:
    return ".".join(file.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


def test_a_module_imports_only_from_lower_floors():
    for floor, rooms in enumerate(FLOORS):
        for place, room in enumerate(rooms):
            below = {each for lower in FLOORS[:floor] for each in lower}
            allowed = below | {room} | set(rooms[:place] if floor == 0 else ())
            for file in [PACKAGE / f"{room}.py", *(PACKAGE / room).glob("*.py")]:
                if file.exists():
                    used = {each.partition(".")[0] for each in modules_imported_by(file)}
                    assert used - {""} <= allowed | {"__init__"}, (name_of(file), used - allowed)
                    assert "" not in used or room == "cli", f"{name_of(file)} imports the package"


def test_the_table_names_every_module():
    modules = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py"}
    packages = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    named = [room for rooms in FLOORS for room in rooms]
    assert len(named) == len(set(named))
    assert (modules | packages) - {"__init__", "__main__"} == set(named)


def test_no_two_files_import_each_other():
    """Not in a cycle of any length, wherever in the file the import is."""
    files = {name_of(file): file for file in PACKAGE.rglob("*.py")}
    graph = {name: modules_imported_by(file) & files.keys() for name, file in files.items()}
    for name in graph:
        graph[name] -= {name, "__init__"}
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"a circle: {' -> '.join(error.args[1])}")


WHOLE = {
    "architecture",
    "benchmark_plain",
    "benchmark_recipes",
    "benchmark_sets",
    "benchmark_verdict",
    "benchmarks",
    "chance",
    "docs",
    "faults",
    "hostile",
    "hub_datasets",
    "kills",
    "plugins",
    "public_usage",
    "release",
    "report_page",
    "serve_page",
    "site",
    "views",
}
"""Test files for promises that no single module keeps."""


def test_a_test_file_has_the_name_of_its_module():
    """Of `heads/recipes.py` it is ``test_recipes.py``, or ``test_heads_recipes.py``."""
    paths = [name_of(file) for file in PACKAGE.rglob("*.py")]
    modules = {path.rpartition(".")[2] for path in paths}
    modules |= {path.replace(".", "_") for path in paths}
    files = {path.stem.removeprefix("test_") for path in Path(__file__).parent.glob("test_*.py")}
    assert files - modules == WHOLE


def test_commands_are_short():
    """At most 40 lines each: they parse, call the library and print."""
    for command in COMMANDS.values():
        lines, _ = inspect.getsourcelines(command.function)
        body = [line for line in lines if not line.startswith("@")]
        assert len(body) <= 40, command.name


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
from bottleneck.cli import main
try:
    main({})
except SystemExit as ended:
    assert ended.code == 2, ended.code
"""
COMMAND = """
from bottleneck.cli import main
try:
    main({})
except SystemExit as ended:
    assert not ended.code, ended.code
"""
EVALUATED = """
from bottleneck.cli import main
try:
    main(["evaluate", "--head", {!r}])
except SystemExit as ended:
    assert not ended.code, ended.code
"""
UNTIL_THE_FIRST_FOLD = """
from bottleneck.cli import main
from bottleneck.heads.recipes import Linear

class Begun(Exception):
    pass

def begin(_, problem, folds, grid):
    assert len(folds) == 5
    raise Begun

Linear.held_out = begin
try:
    main(["fit-head"])
except Begun:
    pass
else:
    raise AssertionError("no fold began")
assert not {"sklearn", "pandas"} & set(sys.modules)
"""
REPORTED = EVALUATED.replace('"evaluate"', '"report"')
HEADS = {f"evaluate {clf}": EVALUATED.format(clf) for clf in ("softmax", "centroid", "knn", "mlp")}
HEADS["report"] = REPORTED.format("softmax")
WITHOUT_TORCH = {
    "cache": "import bottleneck.cache",
    "heads": "import bottleneck.heads; assert 'h5py' not in sys.modules",
    "stages": "import bottleneck.advise, bottleneck.augment, bottleneck.evaluate, "
    "bottleneck.exchange, bottleneck.export, bottleneck.pictures, bottleneck.sweep",
    "exported file": "import bottleneck.sessions; assert 'onnxruntime' not in sys.modules",
    "models": COMMAND.format(["models"]),
    "leaderboard": COMMAND.format(["leaderboard"]),
    "cache ls": COMMAND.format(["cache", "ls"]),
    "config": COMMAND.format(["config"]),
    "missing folder": REFUSED.format(["extract", "--model", "vgg16"]),
    "unknown model": REFUSED.format(["extract", "--model", "vgg61"]),
    "bad option": REFUSED.format(["extract", "--model", "vgg16", "--pool", "agv"]),
    "no images to predict": REFUSED.format(["predict", "nowhere", "--head", "softmax"]),
    "no such export": REFUSED.format(["export", "softmax", "x.tflite"]),
    "unknown head": REFUSED.format(["evaluate", "--head", "none"]),
    "head of nothing": REFUSED.format(["finetune", "--unfreeze", "all", "--head", "none"]),
    "unknown layer": REFUSED.format(["advise", "--layer", "none"]),
    "unknown device": REFUSED.format(["fit-head", "--device", "gpu"]),
    "first fold": UNTIL_THE_FIRST_FOLD,
    "fit-head": COMMAND.format(["fit-head", "--name", "fitted"]),
    **HEADS,
}


@pytest.fixture(scope="module")
def with_heads(faces_cache, tmp_path_factory) -> Path:
    """A folder with a cache, heads of all kinds and a log of one experiment."""
    folder = tmp_path_factory.mktemp("heads")
    (folder / "cache").symlink_to(faces_cache.root)
    features = load_features(faces_cache)
    for clf in ("softmax", "centroid", "knn", "mlp"):
        fit_head(features, clf).save(folder / "heads" / clf)
    folds = [{"repeat": 0, "fold": fold, "images": 40, "accuracy": 0.9} for fold in range(5)]
    ExperimentLog(folder / "experiments.sqlite").append({"clf": "svm"}, folds, 1.5, environment())
    return folder


@pytest.mark.parametrize(
    "code",
    [
        pytest.param(code, id=name, marks=[pytest.mark.ci] if code in HEADS.values() else [])
        for name, code in WITHOUT_TORCH.items()
    ],
)
def test_without_a_network_neither_torch_nor_its_dependents_load(code, with_heads, monkeypatch):
    monkeypatch.chdir(with_heads)
    heavy = """
loaded = {"torch", "torchvision", "timm"} & set(sys.modules)
assert not loaded, loaded
"""
    finished = run_python(f"import sys\n{code}\n{heavy}")
    assert finished.returncode == 0, finished.stderr


@pytest.mark.parametrize(
    ("clf", "with_torch"), [("softmax", False), pytest.param("mlp", True, marks=pytest.mark.ci)]
)
def test_small_problems_have_one_thread_also_where_torch_is_loaded_late(clf, with_torch):
    code = f"""
import sys
import numpy as np
from bottleneck.heads import fit_rows
from bottleneck.solvers import threads
limits, loaded = threads.threadpool_limits, []

def watched(count):
    loaded.append("torch" in sys.modules)
    return limits(count)

threads.threadpool_limits = watched
fit_rows(np.random.default_rng(0).normal(size=(40, 3)), np.arange(40) % 2, {clf!r})
assert not loaded[0] and loaded[-1] is {with_torch}, loaded
assert ("torch" in sys.modules) is {with_torch}
"""
    finished = run_python(code)
    assert finished.returncode == 0, finished.stderr


def test_pandas_works_beside_this_package():
    """pandas looks for another package of the same import name; ours must not break it."""
    code = """
import bottleneck
import pandas
frame = pandas.DataFrame({"a": [1.0, None, 4.0]})
assert frame["a"].mean() == 2.5 and frame["a"].sum() == 5.0
"""
    finished = run_python(code, "-W", "error")
    assert finished.returncode == 0, finished.stderr
    assert not finished.stderr


def test_every_public_name_resolves_after_every_module_was_imported():
    """Importing a module of a package sets its name there, over anything of the same name."""
    for file in PACKAGE.rglob("*.py"):
        if file.stem != "__main__":
            importlib.import_module(f"bottleneck.{name_of(file)}".removesuffix(".__init__"))
    for name in bottleneck.__all__:
        value = getattr(bottleneck, name)
        assert not isinstance(value, ModuleType), name
    modules = {path.stem for path in PACKAGE.iterdir()}
    assert not modules & set(bottleneck.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nansum'"):
        bottleneck.nansum  # noqa: B018 - the access itself is tested


def exported_functions() -> dict[str, ast.FunctionDef]:
    """Functions that ``__all__`` names, in their module or in the package that it is in.

    Commands are left out: their docstring is the help, and an option's text describes a parameter.
    """
    names: dict[Path, set[str]] = {}
    functions = {}
    for file in PACKAGE.rglob("*.py"):
        body = ast.parse(file.read_text()).body
        lists = [
            node.value
            for node in body
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
        ]
        texts = chain.from_iterable(map(ast.walk, lists))
        names[file] = {each.value for each in texts if isinstance(each, ast.Constant)}
        functions |= {(file, node.name): node for node in body if isinstance(node, ast.FunctionDef)}
    return {
        f"{name_of(file)}.{name}": node
        for (file, name), node in functions.items()
        if name in names[file] | names[file.parent / "__init__.py"]
        and not any("add_command(" in ast.unparse(each) for each in node.decorator_list)
    }


def sections_of(docstring: str) -> dict[str, set[str]]:
    """Return what each section of a numpydoc docstring names: parameters, types or errors."""
    sections = re.findall(r"^(\w+)\n-{3,}\n(.*?)(?=\n\n|\Z)", docstring, re.DOTALL | re.MULTILINE)
    heads = {title: re.findall(r"^\S.*", text, re.MULTILINE) for title, text in sections}
    return {
        title: {each.strip(" *") for line in lines for each in line.split(" : ")[0].split(",")}
        for title, lines in heads.items()
    }


def raises(node: ast.AST) -> bool:
    """Whether a function raises something in its own body, not in one that stands in it."""
    inner = (ast.FunctionDef, ast.ClassDef, ast.Lambda)
    own = [each for each in ast.iter_child_nodes(node) if not isinstance(each, inner)]
    return any(isinstance(each, ast.Raise) or raises(each) for each in own)


def test_docstrings_of_exported_functions_have_their_sections():
    functions = exported_functions()
    assert len(functions) > 100
    for name, function in functions.items():
        sections = sections_of(ast.get_docstring(function) or "")
        parameters = {each.arg for each in ast.walk(function.args) if isinstance(each, ast.arg)}
        undocumented = parameters - sections.get("Parameters", set())
        assert not undocumented, f"{name}: no {', '.join(undocumented)} in Parameters"
        returned = ast.unparse(function.returns)
        if parameters and returned not in {"None", "Iterator[None]"}:
            assert sections.keys() & {"Returns", "Yields"}, f"{name} lacks Returns or Yields"
        assert "Raises" in sections or not raises(function), f"{name} lacks Raises"


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

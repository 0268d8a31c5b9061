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

PACKAGE = Path(bottleneck.__file__).parent
LEAVES = {"errors", "files", "labels"}
SETTINGS = {"fields", "settings"}
ALLOWED = {
    "fields": {"errors"},
    "settings": {"errors", "files", "fields"},
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
    "extract": LEAVES | SETTINGS | {"images", "augment", "bases", "cache"},
    "features": LEAVES | {"images", "cache", "pooling"},
    "exchange": LEAVES | {"images", "cache", "features"},
    "heads": LEAVES | {"solvers"},
    "evaluate": LEAVES | {"features", "heads"},
    "advise": LEAVES | {"bases", "cache", "features", "solvers", "heads", "experiments"},
    "sweep": LEAVES | {"images", "cache", "features", "solvers", "heads", "experiments"},
    "predict": LEAVES
    | SETTINGS
    | {"images", "augment", "bases", "cache", "extract", "features", "heads"},
    "finetune": LEAVES
    | SETTINGS
    | {"pooling", "images", "augment", "bases", "cache", "extract"}
    | {"features", "heads", "predict"},
    "report": LEAVES | {"advise", "evaluate"},
    "transformer": LEAVES | SETTINGS | {"images", "pooling", "bases", "cache", "extract"},
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


def test_cache_and_heads_keep_to_their_libraries():
    """No torch is loaded by the cache, and neither torch nor h5py by the heads."""
    cache = "import sys, bottleneck.cache; assert 'torch' not in sys.modules"
    heads = "import sys, bottleneck.heads; assert not {'torch', 'h5py'} & set(sys.modules)"
    for code in (cache, heads):
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

"""The files of a release: the same bytes twice, valid, complete, and they work where installed.

About 60 s in the second tier.
"""

import email
import hashlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

import bottleneck

ROOT = Path(__file__).parents[1]
WORKFLOWS = ROOT / ".github" / "workflows"
KEPT = ("bottleneck", "docs", "notebooks", "tests", "benchmarks", "cache", ".github", ".ci")
EPOCH = "1764547200"
VERSION = bottleneck.__version__


def run(*words: object, **options: object) -> str:
    ran = subprocess.run(
        [str(word) for word in words], capture_output=True, text=True, check=False, **options
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def copy_of_the_source(folder: Path) -> Path:
    """A copy as a checkout has it: without what Git ignores."""
    ignored = shutil.ignore_patterns("__pycache__", "*.h5", ".*_cache", "build", "dist")
    folder.mkdir(parents=True)
    for name in KEPT:
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    for file in (*ROOT.glob("*.*"), ROOT / "LICENSE", ROOT / ".gitignore"):
        if file.is_file() and not file.name.startswith((".coverage", "experiments")):
            shutil.copy(file, folder)
    return folder


def build(source: Path) -> Path:
    """Build the sdist, and from it the wheel, as ``python -m build`` does."""
    environment = os.environ | {"SOURCE_DATE_EPOCH": EPOCH}
    run(sys.executable, "-m", "build", "--no-isolation", source, env=environment)
    return source / "dist"


@pytest.fixture(scope="module")
def dist(made_once) -> Path:
    """A folder with a wheel and an sdist; not to be changed."""
    return (
        made_once("release", lambda folder: build(copy_of_the_source(folder / "one"))) / "one/dist"
    )


@pytest.mark.ci
def test_two_builds_have_the_same_bytes(dist, tmp_path):
    """In folders of other names, from files of other times and permissions."""
    source = copy_of_the_source(tmp_path / "another place")
    for file in source.rglob("*"):
        if file.is_file():
            file.chmod(0o600)
            os.utime(file, (1_000_000_000, 1_000_000_000))
    again = build(source)
    names = sorted(file.name for file in dist.iterdir())
    assert names == [
        f"bottleneck_features-{VERSION}-py3-none-any.whl",
        f"bottleneck_features-{VERSION}.tar.gz",
    ]
    for name in names:
        first, second = ((each / name).read_bytes() for each in (dist, again))
        assert hashlib.sha256(first).hexdigest() == hashlib.sha256(second).hexdigest(), name


@pytest.mark.ci
def test_the_files_are_valid_and_complete(dist):
    assert "PASSED" in run(sys.executable, "-m", "twine", "check", "--strict", *dist.iterdir())
    (wheel,), (sdist,) = dist.glob("*.whl"), dist.glob("*.tar.gz")
    assert wheel.stat().st_size < 2e6
    assert sdist.stat().st_size < 4e6
    with zipfile.ZipFile(wheel) as opened:
        inside = set(opened.namelist())
        info = f"bottleneck_features-{VERSION}.dist-info"
        told = email.message_from_bytes(opened.read(f"{info}/METADATA"))
    package = {
        file.relative_to(ROOT).as_posix()
        for file in (ROOT / "bottleneck").rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert {name for name in inside if not name.startswith(info)} == package
    assert f"{info}/licenses/LICENSE" in inside
    assert (told["Name"], told["Version"]) == ("bottleneck-features", VERSION)
    assert told["License-Expression"] == "Apache-2.0"
    assert told.get_payload().startswith("# bottleneck\n")
    with tarfile.open(sdist) as opened:
        names = {name.partition("/")[2] for name in opened.getnames()}
    assert package <= names
    assert {"README.md", "LICENSE", "tests/conftest.py", "docs/index.md"} - names <= {
        "docs/index.md"
    }


@pytest.fixture(params=["wheel", "sdist"])
def installed(request, dist, tmp_path) -> Callable[..., str]:
    """An environment in which a file of the release is installed beside the tests' packages."""
    environment = tmp_path / "fresh"
    venv.create(environment, with_pip=False, symlinks=True)
    (site,) = environment.glob("lib/python*/site-packages")
    # The packages of this environment, without what is installed there for development.
    (site / "packages.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    (file,) = dist.glob("*.whl" if request.param == "wheel" else "*.tar.gz")
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    clean |= {"PIP_NO_INDEX": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    python = environment / "bin" / "python"
    options = ("--no-deps", "--no-build-isolation", "--ignore-installed")
    run(python, "-m", "pip", "install", *options, file, cwd=tmp_path, env=clean)

    def call(*words: object) -> str:
        return run(environment / "bin" / words[0], *words[1:], cwd=tmp_path, env=clean)

    return call


@pytest.mark.ci
def test_the_demo_runs_where_it_is_installed(installed, tmp_path):
    told = installed("python", "-c", "import bottleneck; print(bottleneck.__file__)")
    assert Path(told.strip()).is_relative_to(tmp_path / "fresh")
    assert installed("bottleneck", "--version").strip() == VERSION
    printed = installed("bottleneck", "demo")
    assert re.search(r"^demo-svm +\S+ +0\.9\d+ +40", printed, re.MULTILINE), printed
    assert len(list(tmp_path.glob("demo/data/*/*.png"))) == 200


def test_the_version_is_told_everywhere():
    assert f"version: {VERSION}\n" in (ROOT / "CITATION.cff").read_text()
    assert re.search(rf"^## \[{VERSION}\] - 20\d\d-\d\d-\d\d$", changelog(), re.MULTILINE)


def changelog() -> str:
    return (ROOT / "CHANGELOG.md").read_text()


def test_the_table_of_supported_versions_is_what_the_workflows_test():
    page = (ROOT / "docs" / "reliability.md").read_text()
    (row,) = re.findall(r"^\| Python \| ([\d., ]+) \|", page, re.MULTILINE)
    versions = row.split(", ")
    release = yaml.safe_load((WORKFLOWS / "release.yml").read_text())["jobs"]["smoke"]
    tests = yaml.safe_load((WORKFLOWS / "ci.yml").read_text())["jobs"]["tests"]
    assert versions == release["strategy"]["matrix"]["python"]
    assert versions == tests["strategy"]["matrix"]["python"]
    project = (ROOT / "pyproject.toml").read_text()
    assert re.findall(r'"Programming Language :: Python :: (3\.\d+)"', project) == versions
    assert f'requires-python = ">={versions[0]}"' in project


def test_nothing_is_published_that_was_not_tried():
    """Through trusted publishing: no password, and only after all smoke tests."""
    text = (WORKFLOWS / "release.yml").read_text()
    jobs = yaml.safe_load(text)["jobs"]
    assert jobs["publish"]["needs"] == "smoke"
    assert jobs["smoke"]["needs"] == "build"
    assert jobs["publish"]["permissions"] == {"id-token": "write"}
    assert "secrets." not in text
    assert "password" not in text.replace("no password is stored", "")

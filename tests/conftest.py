"""Fixtures: real photographs, real weights, and the command line run in this process."""

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from multiprocessing import get_context
from multiprocessing.context import ForkServerContext
from multiprocessing.forkserver import ensure_running
from multiprocessing.util import get_temp_dir
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from benchmarked import end_loky, run_benchmark  # noqa: F401 - the latter is a fixture
from browsing import browser  # noqa: F401 - fixture
from hypothesis import settings
from PIL import Image
from served import served_heads, serving  # noqa: F401 - fixtures
from sites import installed
from skimage import data
from threadpoolctl import threadpool_limits

from bottleneck import Cache, FrozenBase, ImageSet, extract_features
from bottleneck.cli import main
from bottleneck.demo import write_demo_images
from bottleneck.records import ExtractedLayer, Extraction, FeatureSource

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # as the package sets it, before tests import it
PRELOADED = (
    "bottleneck.augment.pipelines",
    "bottleneck.finetune",
    "bottleneck.pictures",
    "bottleneck.serve.answering",
    "bottleneck.serve.app",
    "bottleneck.serve.connections",
    "bottleneck.solvers.path",
    "bottleneck.sweep",
    "hdf5plugin",
    "hypothesis.stateful",
    "little",
    "PIL.PngImagePlugin",
    "sklearn.linear_model",
    "torchvision.transforms.v2",
)
"""What processes of tests import."""
PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket")

settings.register_profile("untimed", deadline=None)  # however busy the processor is
settings.load_profile("untimed")


def pytest_configure(config):
    """Give each of several workers one thread, in libraries loaded already and in later ones."""
    if hasattr(config, "workerinput"):
        os.environ |= {f"{name}_NUM_THREADS": "1" for name in ("OMP", "MKL", "OPENBLAS")}
        threadpool_limits(1)
        torch.set_num_threads(1)


def pytest_collection_modifyitems(items):
    """In the second tier, what runs at its full count does not run at a reduced one, too."""

    def repeated(item) -> bool:
        count = item.callspec.params.get("full") if hasattr(item, "callspec") else None
        return count == "some" and item.get_closest_marker("ci") is not None

    items[:] = [item for item in items if not repeated(item)]


@pytest.fixture(params=["some", pytest.param("full", marks=pytest.mark.ci)])
def full(request) -> bool:
    """Whether a test that repeats kills or damage runs at its full count."""
    return request.param == "full"


@pytest.fixture(scope="session", autouse=True)
def nothing_is_left(tmp_path_factory):
    """Fail if a test leaves a process, or a file in the folder for temporary files."""
    tmp_path_factory.getbasetemp()  # stays in the usual place, and is removed by pytest
    get_temp_dir()  # likewise, by multiprocessing at the end of the process
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        Path(folder).chmod(0o1777)  # for tests of other users, as the folder that it stands for
        patch.setenv("TMPDIR", folder)
        patch.setattr(tempfile, "tempdir", folder)
        yield
        files = {each.name for each in Path(folder).iterdir()}
        files -= {name for name in files if name.startswith("sklearn_testing_")}
    kept = ("resource_tracker", "forkserver")  # these end with this process, and so do their files
    children = psutil.Process().children(recursive=True)
    living = [each for each in children if each.status() != psutil.STATUS_ZOMBIE]
    left = [each for each in living if not any(word in str(each.cmdline()) for word in kept)]
    assert not left, left
    assert not files, files


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    """Run every test in a folder of its own, with no weights cached and no way to a network."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1,localhost")
    yield
    end_loky()


@pytest.fixture(scope="session")
def processes() -> ForkServerContext:
    """A way to start processes that have loaded everything already, and never computed."""
    context = get_context("forkserver")
    context.set_forkserver_preload(["conftest", *PRELOADED])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), *sys.path]))
        ensure_running()
    return context


@pytest.fixture(scope="session")
def made_once(tmp_path_factory) -> Callable[[str, Callable[[Path], object]], Path]:
    """Make a folder once for all workers: ``made_once("demo", write)``; not to be changed."""
    own = tmp_path_factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own

    def once(name: str, make: Callable[[Path], object]) -> Path:
        folder = shared / name
        with (shared / f"{name}.made").open("a+") as made:
            fcntl.flock(made, fcntl.LOCK_EX)  # until it is closed
            if made.seek(0, os.SEEK_END) == 0:
                shutil.rmtree(folder, ignore_errors=True)  # of a worker that failed
                folder.mkdir()
                make(folder)
                made.write("whole")
        return folder

    return once


@pytest.fixture(scope="session")
def faces(made_once) -> Path:
    """The demo's 200 photographs in two class folders; not to be changed."""
    return made_once("demo", lambda folder: write_demo_images(folder / "data")) / "data"


@pytest.fixture(scope="session")
def lite0() -> FrozenBase:
    """EfficientNet-Lite0 with its ImageNet weights."""
    return FrozenBase("efficientnet_lite0")


@pytest.fixture(scope="session")
def faces_cache(faces, made_once, request) -> Cache:
    """A cache with the faces' features; not to be changed."""

    def make(folder: Path) -> None:
        lite0 = request.getfixturevalue("lite0")
        extract_features(ImageSet.from_folder(faces), lite0, Cache(folder))

    return Cache(made_once("faces", make))


@pytest.fixture(scope="session")
def site(tmp_path_factory) -> Path:
    """A folder in which the package of `little` is installed; not to be changed."""
    site = tmp_path_factory.mktemp("site")
    folder = site / "little-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: little\n")
    (folder / "entry_points.txt").write_text("[bottleneck.bases]\nlittle = little:model\n")
    return site


@pytest.fixture
def little(site) -> Iterator[str]:
    """Name of a base of another package with few weights, for tests of anything but networks."""
    with installed(site):
        yield "little"


@cache
def photograph(name: str) -> np.ndarray:
    """One of scikit-image's colour photographs; not to be changed."""
    return getattr(data, name)()


def crops(count: int, *, size: int = 48, seed: int = 0) -> list[Image.Image]:
    """Random crops of scikit-image's colour photographs, all different."""
    generator = np.random.default_rng(seed)
    found = []
    for number in range(count):
        whole = photograph(PHOTOGRAPHS[number % len(PHOTOGRAPHS)])
        top = generator.integers(whole.shape[0] - size)
        left = generator.integers(whole.shape[1] - size)
        found.append(Image.fromarray(whole[top : top + size, left : left + size]))
    return found


@pytest.fixture(scope="session")
def make_images() -> Callable[..., Path]:
    """Write class folders of different crops: ``make_images("data", cat=3, dog=4)``."""

    def make(folder: str | Path = "data", *, seed: int = 0, **counts: int) -> Path:
        images = iter(crops(sum(counts.values()), seed=seed))
        for label, count in counts.items():
            target = Path(folder) / label
            target.mkdir(parents=True, exist_ok=True)
            for number in range(count):
                next(images).save(target / f"{number:03d}.png")
        return Path(folder)

    return make


@pytest.fixture
def photographs(tmp_path) -> ImageSet:
    """Twelve photographs of five sizes, two of which are alone with theirs."""
    folder = tmp_path / "photographs"
    images = [data.chelsea(), data.coffee(), data.rocket(), data.astronaut()]
    for number in range(12):
        image = Image.fromarray(images[number % 4])
        width = 200 + 40 * (number % 3)
        height = 300 if number == 11 else 150
        path = folder / f"{number % 2}/{number:02d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.crop((number, 0, number + width, height)).save(path, quality=90)
    return ImageSet.from_folder(folder)


def layer_record(bank: str = "m-abababababab", layer: str = "a") -> ExtractedLayer:
    """What a run says of a layer."""
    return ExtractedLayer(
        layer=layer,
        alias=None,
        aliases=[],
        bank=bank,
        fingerprint="ab" * 32,
        axes="C",
        pool="none",
        shape=[3],
    )


def source_record(**facts: object) -> FeatureSource:
    """Where a head's features came from."""
    known = {"layer": "a", "alias": None, "bank": "m-abababababab", "fingerprint": "ab" * 32}
    known |= {"image_set": "data", "model": "m", "weights": "w", "weights_random": False}
    known |= {"adjustments": {}, "precision": "fp32", "dtype": "float16", "axes": "C"}
    return FeatureSource(**known | {"stored_pool": "none", "pool": "none"} | facts)


def run_record(
    image_set: str = "data", *, model: str = "m", layers: Sequence[ExtractedLayer] = ()
) -> Extraction:
    """A run's record."""
    return Extraction(
        time=datetime.now(UTC).isoformat(),
        image_set=image_set,
        image_set_digest="cd" * 32,
        model=model,
        weights="w",
        weights_random=False,
        adjustments={},
        precision="fp32",
        dtype="float16",
        layers=list(layers),
    )


@pytest.fixture
def calls(monkeypatch) -> list[int]:
    """Images per call of any base's forward."""
    counted: list[int] = []
    forward = FrozenBase.__call__

    def counting(self, batch):
        counted.append(len(batch))
        return forward(self, batch)

    monkeypatch.setattr(FrozenBase, "__call__", counting)
    return counted


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Mount a folder so that nothing can be written; other users than root lose the permission."""
    if os.geteuid():
        found = [folder, *(path for path in folder.rglob("*") if not path.is_symlink())]
        modes = [(path, path.stat().st_mode) for path in found]
        for path, mode in modes:
            path.chmod(mode & ~0o222)
        try:
            yield
        finally:
            for path, mode in modes:
                path.chmod(mode)
        return
    bound = subprocess.run(["mount", "--bind", folder, folder], check=False, capture_output=True)
    if bound.returncode:
        pytest.skip("nothing can be mounted here")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", folder], check=True)
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)  # processes may be in it


@dataclass(frozen=True)
class Finished:
    """How a command ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def bottleneck(capsys) -> Callable[..., Finished]:
    """Run a command in this process: ``bottleneck("extract", "--model", "resnet18")``."""

    def run(*arguments: object) -> Finished:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        code = stopped.value.code
        return Finished(code if isinstance(code, int) else 0, captured.out, captured.err)

    return run

"""Pipes and devices in place of every file that is read: nothing waits for them. About 15 s."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import crops

from bottleneck import (
    Cache,
    ExperimentLog,
    FrozenBase,
    extract_features,
    fit_head,
    load_features,
    run_sweep,
    select_features,
)
from bottleneck.errors import CacheError
from bottleneck.exchange import export_features
from bottleneck.inputs import check_regular, open_regular, read_regular

pytestmark = pytest.mark.timeout(60)


def pipe(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder with images, a cache, a head, a log and exported features."""
    before, folder = Path.cwd(), tmp_path_factory.mktemp("made")
    os.chdir(folder)
    try:
        images = iter(crops(12))
        for label in ("cat", "dog"):
            Path("data", label).mkdir(parents=True)
            for number in range(6):
                next(images).save(Path("data", label, f"{number}.png"))
        base = FrozenBase("squeezenet1_1", ["features.2"], weights="random", pool="avg")
        extract_features("data", base, "cache")
        features = load_features("cache")
        fit_head(features, "centroid").save("heads/centroid")
        source = select_features("cache")
        run_sweep("cache", [source], "experiments.sqlite", clfs=("centroid",), cv=2, jobs=1)
        for name in ("features.npz", "features.h5"):
            export_features(Cache("cache"), source, name)
        Path("list.csv").write_text("path,label\ndata/cat/0.png,cat\ndata/dog/0.png,dog\n")
        Path("policy.yaml").write_text("- RandomHorizontalFlip: {p: 0.5}\n")
        Path("settings.toml").write_text("[fit-head]\nclf = 'centroid'\n")
    finally:
        os.chdir(before)
    return folder


EXTRACT = ("extract", "--model", "squeezenet1_1", "--weights", "random", "--layer", "features.2")
PLACES = {
    "data/cat/0.png": ("extract",),
    "list.csv": (*EXTRACT, "--data", "list.csv"),
    "weights.pth": (*EXTRACT[:3], "--weights", "weights.pth"),
    "weights.safetensors": (*EXTRACT[:3], "--weights", "weights.safetensors"),
    "policy.yaml": (*EXTRACT, "--views", "2", "--augment", "policy.yaml"),
    "settings.toml": ("fit-head", "--config", "settings.toml"),
    "cache/sets/data.csv": ("fit-head",),
    "cache/runs/*.json": ("fit-head",),
    "cache/*/bank.json": ("cache", "verify"),
    "cache/*/parts/*.h5": ("fit-head",),
    "heads/centroid/head.json": ("predict", "data/cat/0.png"),
    "heads/centroid/*.safetensors": ("predict", "data/cat/0.png"),
    "experiments.sqlite": ("leaderboard",),
    "features.npz": ("cache", "import", "features.npz"),
    "features.h5": ("cache", "import", "features.h5"),
    "image.png": ("predict", "image.png"),
}


@pytest.mark.parametrize("special", [pipe, device])
@pytest.mark.parametrize("place", PLACES)
def test_no_command_waits_for_a_special_file(bottleneck, made, place, special, tmp_path):
    """It ends with a sentence, or with the bad image listed."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    command = PLACES[place]
    if command == ("extract",):
        command = (*EXTRACT, "--pool", "avg")
    for path in list(Path().glob(place)) or [Path(place)]:
        path.unlink(missing_ok=True)
        special(path)
    finished = bottleneck(*command)
    assert finished.code in {1, 2}, (finished.out, finished.err)
    assert "Traceback" not in finished.err
    assert any(each in finished.err for each in ("error: ", "could not be used", "damaged: "))
    assert "not a regular file" in finished.err or "no " in finished.err or place in finished.err


@pytest.mark.parametrize("read", [check_regular, open_regular, read_regular])
def test_only_regular_files_are_opened(read: Callable[[Path], object]):
    pipe(Path("pipe"))
    device(Path("device"))
    Path("folder").mkdir()
    for name, reason in (("pipe", "not a regular"), ("device", "not a regular"), ("folder", "a f")):
        with pytest.raises(OSError, match=reason):
            read(Path(name))
    with pytest.raises(FileNotFoundError):
        read(Path("missing"))
    Path("file").write_bytes(b"content")
    Path("link").symlink_to("file")
    assert read_regular(Path("link")) == b"content"
    assert check_regular(Path("link")).st_size == 7


def test_the_log_of_experiments_is_no_pipe():
    pipe(Path("log.sqlite"))
    with pytest.raises(CacheError, match=r"'log.sqlite' cannot be used \(not a regular file\)"):
        ExperimentLog("log.sqlite").experiments()

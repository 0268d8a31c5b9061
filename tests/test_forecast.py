"""The forecast of an extraction: its numbers, and that it leaves no files.

How near it comes is shown by ``benchmarks/forecast.py``: times are not for tests. About 10 s.
"""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bottleneck import Cache, FrozenBase, ImageSet, extract_features
from bottleneck.cache import PartWriter, part_size, writer
from bottleneck.errors import CacheError, UsageError
from bottleneck.extract import forecast_extraction


@pytest.fixture
def tiny() -> FrozenBase:
    return FrozenBase("squeezenet1_1", ["features.3", "penultimate"], weights="random")


def parts_on_disk(cache: Cache) -> int:
    return sum(path.stat().st_size for path in cache.root.glob("*/parts/*.h5"))


def test_it_counts_and_leaves_nothing_behind(make_images, tiny):
    images = ImageSet.from_folder(make_images(cat=9, dog=9))
    before = sorted(Path().rglob("*"))
    cache = Cache("cache")
    forecast = forecast_extraction(images, tiny, cache, batch_size=2)
    assert sorted(Path().rglob("*")) == before
    assert (forecast.images, forecast.missing) == (18, 18)
    assert forecast.trial == 18
    assert forecast.seconds > 0
    extract_features(images, tiny, cache, batch_size=2)
    assert forecast.bytes_on_disk == pytest.approx(parts_on_disk(cache), rel=0.02)
    assert forecast.peak_memory > 50e6


def test_it_counts_missing_features(make_images, tiny):
    folder = make_images(cat=5, dog=5)
    cache = Cache("cache")
    extract_features(ImageSet.from_folder(folder), tiny, cache)
    extracted = sorted(Path("cache").rglob("*"))
    nothing = forecast_extraction(ImageSet.from_folder(folder), tiny, cache)
    assert (nothing.images, nothing.missing, nothing.trial) == (10, 0, 0)
    assert nothing.bytes_on_disk == 0
    make_images(fish=4, seed=7)
    more = forecast_extraction(ImageSet.from_folder(folder), tiny, cache)
    assert (more.images, more.missing) == (14, 4)
    assert sorted(Path("cache").rglob("*")) == extracted


def test_the_bytes_of_many_parts_are_forecast(make_images, tiny, monkeypatch):
    """The bytes of each part are those that HDF5 takes."""
    monkeypatch.setattr(writer, "PART_BYTES", 2**20)
    monkeypatch.setattr("bottleneck.extract.forecast.PART_BYTES", 2**20)
    images = ImageSet.from_folder(make_images(cat=9, dog=9))
    forecast = forecast_extraction(images, tiny, Cache("cache"), batch_size=2)
    extract_features(images, tiny, Cache("cache"), batch_size=2)
    assert len(list(Path("cache").glob("*/parts/*.h5"))) > 4
    assert forecast.bytes_on_disk == pytest.approx(parts_on_disk(Cache("cache")), rel=0.02)


@pytest.mark.parametrize(("rows", "widths"), [(1, [2000]), (700, [2560, 12]), (40, [3 * 2**20])])
def test_the_size_of_a_part_is_forecast(rows, widths, tmp_path):
    features = {
        f"layer{place}": np.ones((rows, width // 2), np.float32)
        for place, width in enumerate(widths)
    }
    limits = {"part_bytes": 2**28, "part_seconds": 60.0}
    with PartWriter(tmp_path, "0", "float16", **limits) as made:
        made.append([f"{row:064x}" for row in range(rows)], features)
    (path,) = tmp_path.glob("*.h5")
    assert part_size(rows, widths) == pytest.approx(path.stat().st_size, rel=0.02, abs=2048)


def test_a_dry_run_prints_the_forecast(bottleneck, make_images):
    make_images(cat=6, dog=6)
    arguments = ("extract", "--model", "squeezenet1_1", "--weights", "random", "--dry-run")
    finished = bottleneck(*arguments)
    assert finished.code == 0
    assert [line.split()[-1] for line in finished.out.splitlines()[:2]] == ["12", "12"]
    assert not Path("cache").exists()
    printed = json.loads(bottleneck(*arguments, "--json").out)
    assert printed["missing"] == 12
    assert printed["bytes_on_disk"] > 0


def test_errors_are_those_of_extract(make_images, tiny):
    images = ImageSet.from_folder(make_images(cat=2, dog=2))
    with pytest.raises(UsageError, match="`dtype` must be float16 or float32, got 'float8'"):
        forecast_extraction(images, tiny, Cache("cache"), dtype="float8")
    with pytest.raises(UsageError, match="too long for a file"):
        forecast_extraction(replace(images, name="x" * 220), tiny, Cache("cache"))
    Path("file").touch()
    with pytest.raises(CacheError, match="cannot write to the cache folder 'file'"):
        forecast_extraction(images, tiny, Cache("file"))


def test_bad_images_in_the_trial_are_reported(bottleneck, make_images):
    folder = make_images(cat=6, dog=6)
    (folder / "cat/000.png").write_bytes(b"no image")
    (folder / "dog/001.png").write_bytes((folder / "dog/001.png").read_bytes()[:500])
    arguments = ("extract", "--model", "squeezenet1_1", "--weights", "random", "--dry-run")
    finished = bottleneck(*arguments)
    assert finished.code == 1
    assert "2 images could not be used" in finished.err
    assert len(json.loads(bottleneck(*arguments, "--json").out)["rejected"]) == 2


def test_leftovers_of_a_killed_trial_are_removed(make_images, tiny):
    """After an hour, when no trial can be running any more."""
    images = ImageSet.from_folder(make_images(cat=2, dog=2))
    old, new = Path(".bottleneck-forecast-an_old_0"), Path(".bottleneck-forecast-a_new_00")
    for folder in (old, new):
        (folder / "bank").mkdir(parents=True)
    os.utime(old, (0, 0))
    forecast_extraction(images, tiny, Cache("cache"))
    assert (old.exists(), new.exists()) == (False, True)

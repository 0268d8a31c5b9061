"""Shards: each computes its own images alone, and the last one completes the extraction.

About 8 s in the first tier.
"""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from bottleneck import Cache, FrozenBase, ImageSet, extract_features
from bottleneck.cache import Shard, verify_cache
from bottleneck.cache.shards import shard_files
from bottleneck.errors import UsageError
from bottleneck.records import ExtractedShard
from bottleneck.settings import StoreSettings

RANDOM = ("--weights", "random")


def rows(cache: str) -> dict[tuple[str, str], dict[tuple[str, int], bytes]]:
    """All features of a cache, none of them stored twice."""
    found = {}
    for bank in Cache(cache).banks():
        for layer in bank.info.layers:
            keys = sorted(bank.known(layer))
            views = np.array([view for _, view in keys])
            values = bank.read(layer, [digest for digest, _ in keys], view=views)
            stored = {key: row.tobytes() for key, row in zip(keys, values, strict=True)}
            found[bank.name, layer] = stored
            assert sum(part.rows for part in bank.parts()) == len(keys)
    return found


def facts(record) -> dict:
    """A record without what differs between runs, and how much of it was found in the cache."""
    return record.as_dict() | dict.fromkeys(
        ("time", "seconds", "computed", "cached", "bytes_written", "views_computed")
    )


@pytest.fixture
def folder(make_images) -> Path:
    """Forty images, one of which is damaged, and a copy."""
    found = make_images(cat=20, dog=20)
    bad = found / "cat/007.png"
    bad.write_bytes(bad.read_bytes()[:200])
    (found / "dog/copy.png").write_bytes((found / "dog/000.png").read_bytes())
    return found


@pytest.mark.parametrize("views", [0, pytest.param(2, marks=pytest.mark.ci)])
def test_shards_compute_each_image_once_and_the_last_completes_it(folder, little, views):
    """With the image set, record and rows of one extraction, also of several bases."""
    settings = {"views": views, "augment": "crop"} if views else {}
    bases = [
        FrozenBase(little, "second", weights="random"),
        FrozenBase(little, "second", weights="random", image_size=48),
    ]
    whole = extract_features(folder, bases, "whole", **settings)
    computed = [0, 0]
    for number in (3, 1, 4):
        found = extract_features(folder, bases, "cache", shard=f"{number}/4", **settings)
        assert all(isinstance(each, ExtractedShard) for each in found)
        assert found[0].shard == f"{number}/4"
        assert found[0].missing[number - 1] == 0 < found[0].missing[1]
        computed = [sum(pair) for pair in zip(computed, (e.computed for e in found), strict=True)]
        assert not Path("cache/sets").exists()
        assert not Path("cache/runs").exists()
    last = extract_features(folder, bases, "cache", shard="2/4", **settings)
    assert not any(isinstance(each, ExtractedShard) for each in last)
    assert [c + each.computed for c, each in zip(computed, last, strict=True)] == [39, 39]
    assert list(map(facts, last)) == list(map(facts, whole))
    assert [Path(each.path).name for each in last[0].rejected] == ["007.png"]
    assert rows("cache") == rows("whole")
    one, other = (Path(cache, "sets/data.csv").read_bytes() for cache in ("cache", "whole"))
    assert one == other
    assert not Path("cache/shards").exists()


def test_an_extraction_without_a_shard_completes_it(folder, little):
    base = FrozenBase(little, "second", weights="random")
    extract_features(folder, base, "cache", shard="1/2")
    done = extract_features(folder, base, "cache")
    assert done.computed + done.cached == 39
    assert done.cached > 0
    assert not Path("cache/shards").exists()
    assert len(Cache("cache").runs()) == 1


def test_a_shard_may_be_empty_and_be_repeated(make_images, little):
    images = ImageSet.from_folder(make_images(cat=3, dog=3))
    base = FrozenBase(little, "second", weights="random")
    counts = [
        extract_features(images, base, "cache", shard=f"{number}/9").computed
        for number in range(1, 9)
    ]
    assert sum(counts) <= 6
    assert 0 in counts
    again = extract_features(images, base, "cache", shard="1/9")
    assert again.computed == 0
    done = extract_features(images, base, "cache", shard="9/9")
    assert not isinstance(done, ExtractedShard)
    assert sum(counts) + done.computed == 6


def test_a_shard_that_is_repeated_after_the_last_one_leaves_nothing(folder, little):
    """Neither that with the bad image nor another one; a file that is new there is computed."""
    base = FrozenBase(little, "second", weights="random")
    for number in (1, 2, 3):
        done = extract_features(folder, base, "cache", shard=f"{number}/3")
    for number in (1, 2, 3):
        again = extract_features(folder, base, "cache", shard=f"{number}/3")
        assert not isinstance(again, ExtractedShard)
        assert again.computed == 0
        assert again.rejected == done.rejected
        assert not Path("cache/shards").exists()
    whole = (folder / "cat/008.png").read_bytes()
    (folder / "cat/007.png").write_bytes(whole + b" ")
    items = ImageSet.from_folder(folder).items
    (new,) = (item.digest for item in items if item.path.endswith("cat/007.png"))
    own = Shard.number_of(new, 3)
    again = [
        extract_features(folder, base, "cache", shard=f"{n % 3 + 1}/3") for n in range(own, own + 3)
    ]
    assert sum(each.computed for each in again) == 1
    assert not isinstance(again[-1], ExtractedShard)
    assert again[-1].rejected == []


def test_two_numbers_of_shards_are_refused_while_images_are_missing(folder, little):
    base = FrozenBase(little, "second", weights="random")
    extract_features(folder, base, "cache", shard="1/2")
    message = "is being extracted in 2 shards, of which 1 are done, got `shard` 1/3; give `shard`"
    with pytest.raises(UsageError, match=message):
        extract_features(folder, base, "cache", shard="1/3")
    other = FrozenBase(little, "first", weights="random")  # of another base: of its own
    assert isinstance(extract_features(folder, other, "cache", shard="1/3"), ExtractedShard)
    extract_features(folder, base, "cache", shard="2/2")
    extract_features(folder, base, "cache", shard="1/3")


def test_the_command_says_what_is_missing(folder, little, bottleneck):
    """Before, between and after the shards; other commands name the shards that are not done."""
    command = ("extract", "--data", folder, "--model", little, *RANDOM)
    told = json.loads(bottleneck(*command, "--dry-run", "--shard", "1/2", "--json").out)
    assert sum(told["missing_of_shards"]) == 40
    assert told["missing"] == told["missing_of_shards"][0]
    first = bottleneck(*command, "--shard", "1/2")
    assert re.search(r"of 'data', shard 1/2 by little", first.out)
    assert re.search(r"note: shard 1/2 is done; (\d+) images are missing \(\1 in 2/2\)", first.err)
    asked = bottleneck("fit-head", "--C", "1")
    assert asked.code == 1
    assert "image set 'data' is being extracted in 2 shards, of which 2 is not done" in asked.err
    shown = bottleneck(*command, "--dry-run")
    assert re.search(r"of these, by shard +\d+ in 2/2", shown.out)
    last = bottleneck(*command, "--shard", "2/2")
    assert "missing" not in last.err
    assert bottleneck("fit-head", "--C", "1").code == 0


def test_a_damaged_record_of_a_shard_counts_as_not_done(folder, little):
    """That of the shard with the bad image, which nobody else knows to be bad."""
    base, images = FrozenBase(little, "second", weights="random"), ImageSet.from_folder(folder)
    (bad,) = (item.digest for item in images.items if item.path.endswith("cat/007.png"))
    own = Shard.number_of(bad, 3)
    one, other = {1, 2, 3} - {own}
    for number in (own, one):
        extract_features(images, base, "cache", shard=f"{number}/3")
    (files,) = shard_files(Cache("cache"))
    damaged = files.folder / f"{own}-of-3.json"
    damaged.write_text(damaged.read_text().replace("true", "null"))
    found = verify_cache(Cache("cache"))
    assert [each.path for each in found.damage] == [str(damaged)]
    assert not damaged.exists()
    left = extract_features(images, base, "cache", shard=f"{other}/3")
    assert left.missing == [int(number == own) for number in (1, 2, 3)]
    extract_features(images, base, "cache", shard=f"{own}/3")
    assert not Path("cache/shards").exists()


def test_records_of_shards_are_removed_behind_no_link(folder, little, tmp_path):
    base = FrozenBase(little, "second", weights="random")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    Path("cache").mkdir()
    Path("cache/shards").symlink_to(elsewhere)
    for number in (1, 2):
        extract_features(folder, base, "cache", shard=f"{number}/2")
    assert len(list(elsewhere.rglob("*.json"))) == 2
    assert len(Cache("cache").runs()) == 1


@pytest.mark.parametrize("given", ["5/4", "0/4", "1", "1/0", "a/b", "-1/4", "1/4/2", ""])
def test_what_is_no_shard_is_refused(given):
    message = r"`shard` must be I/N with I from 1 to N, such as 2/4, or auto, got "
    with pytest.raises(UsageError, match=message + re.escape(repr(given))):
        StoreSettings(shard=given)


ARRAY = {"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_COUNT": "3"}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"RANK": "0", "WORLD_SIZE": "4"}, "1/4"),
        ({"RANK": "3", "WORLD_SIZE": "4"}, "4/4"),
        ({"SLURM_ARRAY_TASK_ID": "0", "SLURM_ARRAY_TASK_COUNT": "2"}, "1/2"),
        ({**ARRAY, "SLURM_ARRAY_TASK_MIN": "5"}, "3/3"),
        ({**ARRAY, "SLURM_ARRAY_TASK_MIN": "3", "SLURM_ARRAY_TASK_STEP": "2"}, "3/3"),
        ({**ARRAY, "SLURM_ARRAY_TASK_MIN": "7", "RANK": "1", "WORLD_SIZE": "2"}, "1/3"),
    ],
)
def test_the_environment_gives_the_shard(environment, expected):
    assert str(Shard.of("auto", environment)) == expected


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({}, "needs whole numbers in the environment variables SLURM_ARRAY_TASK_ID"),
        ({"RANK": "1"}, "or in RANK and WORLD_SIZE; give the shard as I/N"),
        ({"RANK": "one", "WORLD_SIZE": "2"}, "needs whole numbers"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "gives shard 3/2 for `shard=auto`, expected one from"),
        (ARRAY, "gives shard 8/3 .* in a job array with gaps"),
    ],
)
def test_an_environment_without_a_shard_is_refused(environment, message):
    with pytest.raises(UsageError, match=message):
        Shard.of("auto", environment)


def test_what_names_no_shard_is_refused_before_any_work(folder, little, bottleneck, monkeypatch):
    """No image is read, and so no summary of them is printed."""
    for name in ("SLURM_ARRAY_TASK_ID", "RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    base, read = FrozenBase(little, weights="random"), []
    monkeypatch.setattr(ImageSet, "open", lambda *given, **_: read.append(given))
    command = ("extract", "--data", folder, "--model", little, *RANDOM)
    for given, expected in (("5/4", "--shard must be I/N"), ("auto", "--shard auto needs")):
        refused = bottleneck(*command, "--shard", given)
        assert refused.code == 2
        assert expected in refused.err
        assert "images" not in refused.err
    with pytest.raises(UsageError, match="`shard=auto` needs"):
        extract_features(folder, base, "cache", shard="auto")
    assert not read
    assert not Path("cache").exists()


def test_every_image_has_one_shard():
    digests = [f"{number * 0x9E3779B97F4A7C15 % 2**64:016x}{0:048x}" for number in range(999)]
    for count in (1, 2, 7, 1000):
        shards = [Shard(number, count) for number in range(1, count + 1)]
        assert all(sum(shard.has(digest) for shard in shards) == 1 for digest in digests[:50])
    sizes = [sum(Shard(number, 3).has(digest) for digest in digests) for number in (1, 2, 3)]
    assert min(sizes) > 250

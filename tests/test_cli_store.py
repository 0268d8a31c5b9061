"""The commands on the cache, compression and near-duplicates. About 10 s."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bottleneck import Cache

pytestmark = pytest.mark.usefixtures("little")

STORED = ("--weights", "random", "--layer", "second")
TINY = ("--model", "little", *STORED)


@pytest.fixture
def _extracted(bottleneck, little, make_images):
    """A folder with data/ and an extraction of it."""
    make_images(cat=8, dog=8)
    assert bottleneck("extract", "--model", little, *STORED).code == 0


def test_near_duplicates_are_reported_on_request(bottleneck, make_images):
    """A recompressed copy in another split, and not the images that merely share a class."""
    make_images("data/train", cat=6, dog=6)
    make_images("data/test", cat=3, dog=3, seed=7)
    with Image.open("data/train/cat/001.png") as image:
        image.resize((40, 40)).save("data/test/cat/again.jpg", quality=60)
    assert "again.jpg" not in bottleneck("extract", *TINY).err
    finished = bottleneck("extract", *TINY, "--near-duplicates")
    assert "warning: near-duplicates in different splits: 1 pair\n" in finished.err
    assert "data/train/cat/001.png (train) ~ data/test/cat/again.jpg (test)" in finished.err
    fitted = bottleneck("fit-head", "--C", "1", "--near-duplicates", "--json")
    assert "~ data/test/cat/again.jpg" in fitted.err
    (pair,) = json.loads(fitted.out)["near_duplicates"]["pairs"]
    assert pair["distance"] <= 4
    Path("data/train/cat/001.png").unlink()
    missing = bottleneck("fit-head", "--C", "1", "--near-duplicates")
    assert "1 image could not be compared, first data/train/cat/001.png" in missing.err


@pytest.mark.usefixtures("_extracted")
def test_the_cache_is_kept_from_the_command_line(bottleneck):
    """Verify, damage, verify, extract again, compact, prune."""
    assert bottleneck("cache", "verify", "--deep").code == 0
    (checked,) = json.loads(bottleneck("cache", "verify", "--deep", "--json").out)["banks"]
    assert (checked["rows"], checked["damaged"], checked["recomputed"]) == (16, 0, 16)
    assert checked["difference"] < 1e-3
    (part,) = Path("cache").glob("*/parts/*.h5")
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 1
    part.write_bytes(content)
    finished = bottleneck("cache", "verify")
    assert finished.code == 1
    assert f"damaged: {part} (" in finished.err
    assert list(Path("cache/quarantine").rglob(part.name))
    assert "run 'bottleneck extract --" in bottleneck("fit-head").err
    assert "16 computed" in bottleneck("extract", *TINY).out
    assert bottleneck("cache", "verify", "little").code == 0
    assert bottleneck("cache", "compact", "--compress", "zstd").code == 0
    assert "part" in bottleneck("cache", "compact", "--json").out
    assert bottleneck("cache", "prune").code == 2
    listed = bottleneck("cache", "prune", "--older-than", "0h", "--dry-run")
    assert "would be removed" in listed.err
    assert len(Cache("cache").banks()) == 1
    assert bottleneck("cache", "prune", "--keep", "1kB", "--json").code == 0
    assert not Cache("cache").banks()


@pytest.mark.usefixtures("_extracted")
def test_a_deep_check_tells_of_a_damaged_bank_json(bottleneck):
    (info,) = Path("cache").glob("*/bank.json")
    content = bytearray(info.read_bytes())
    content[len(content) // 2] ^= 1
    info.write_bytes(content)
    finished = bottleneck("cache", "verify", "--deep")
    assert finished.code == 1
    assert info.parent.name in finished.out
    assert "could not be recomputed" in finished.err
    assert f"damaged: {info} (" in finished.err
    assert "run 'bottleneck extract' again" in finished.err


@pytest.mark.parametrize(
    "size",
    ["1,5GB", "1,000MB", "1'000MB", "1.5.2GB", "1/2TB", "5-MB", "500 MB junk", "9" * 400],
)
def test_a_wrong_size_is_refused(bottleneck, size):
    finished = bottleneck("cache", "prune", "--keep", size)
    assert finished.code == 2
    assert "--keep must be a number with kB, MB, GB or TB, such as 500MB" in finished.err


@pytest.mark.parametrize("compress", ["lz4", "zstd"])
def test_compressed_features_are_the_same(bottleneck, make_images, compress):
    make_images(cat=4, dog=4)
    assert bottleneck("extract", *TINY).code == 0
    assert bottleneck("extract", *TINY, "--compress", compress, "--cache", "small").code == 0
    (plain,), (small,) = Cache("cache").banks(), Cache("small").banks()
    digests = [digest for digest, _ in plain.known("second")]
    expected = plain.read("second", digests)
    assert np.array_equal(small.read("second", digests), expected)
    assert small.size < plain.size


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("extract", *TINY, "--compress", "gzip"),
            "--compress must be none, lz4 or zstd, got 'gzip'",
        ),
        (("cache", "verify", "--cache", "nowhere"), "no cache folder 'nowhere'"),
        (("cache", "verify", "vgg"), "no bank 'vgg'"),
        (
            ("cache", "compact", "--compress", "best"),
            "--compress must be none, lz4 or zstd, got 'best'",
        ),
        (("cache", "prune", "--keep", "much"), "--keep must be a number with kB, MB, GB or TB"),
        (("cache", "prune", "--older-than", "3"), "--older-than must be a number with h, d or w"),
        (("cache", "prune", "--layer", "nose"), "none of 1 bank has a layer 'nose'"),
        (("cache", "export", "out.csv"), "ending '.csv'; expected .h5, .hdf5 or .npz"),
        (("cache", "import", "gone.h5"), "no file 'gone.h5'"),
        (("cache", "import", "gone.npy"), "give --table CSV"),
        (("cache", "import", "x.h5", "--model", "x"), "--model has no effect without FILE"),
    ],
)
@pytest.mark.usefixtures("_extracted")
def test_invalid_options_of_the_cache_are_refused(bottleneck, arguments, message):
    finished = bottleneck(*arguments)
    assert finished.code == 2
    assert re.search(message, finished.err)
    assert "Traceback" not in finished.err

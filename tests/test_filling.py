"""Several bases in one extraction: one decoding, the same features, parts and records as alone.

About 5 s in the first tier.
"""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch import nn

from bottleneck import Cache, FrozenBase, ImageSet, extract_features
from bottleneck.bases import encoded
from bottleneck.errors import FeatureOverflowError, UsageError
from bottleneck.extract import forecast_extraction
from bottleneck.settings import StoreSettings


@pytest.fixture
def decoded(monkeypatch) -> list[int]:
    """The size of each file that is decoded, in bytes."""
    found: list[int] = []
    decode = encoded.decode_whole

    def counting(data, **options):
        found.append(len(data))
        return decode(data, **options)

    monkeypatch.setattr(encoded, "decode_whole", counting)
    return found


def base(name: str, layer: str = "first", **options) -> FrozenBase:
    return FrozenBase(name, layer, weights="random", **{"precision": "fp32"} | options)


def rows(cache: Cache) -> dict[tuple[str, str], dict[tuple[str, int], bytes]]:
    """The bits of all features: bank and layer to digest and view to bytes."""
    found = {}
    for bank in cache.banks():
        for layer in bank.info.layers:
            keys = sorted(bank.known(layer))
            digests, views = [digest for digest, _ in keys], np.array([view for _, view in keys])
            values = bank.read(layer, digests, view=views)
            found[bank.name, layer] = {
                key: each.tobytes() for key, each in zip(keys, values, strict=True)
            }
            assert sum(part.rows for part in bank.parts()) == len(keys)  # none is there twice
    return found


def facts(record) -> dict:
    """A record without what differs between runs."""
    return record.as_dict() | {"time": None, "seconds": None}


DIFFERENT = (
    {"image_size": (48, 40), "squash": True},
    {"interpolation": "bicubic"},
    {"image_size": 64, "reduced_decode": True, "precision": "auto"},
    {"image_size": 24, "pool": "avg"},
)


@pytest.mark.parametrize("views", [0, pytest.param(2, marks=pytest.mark.ci)])
def test_each_base_gives_what_it_gives_alone(photographs, little, views, decoded):
    """Bit for bit, with the same banks and records; a bad image is listed once for each."""
    bad = Path(photographs.items[3].path)
    bad.write_bytes(bad.read_bytes()[:300])
    settings = StoreSettings(
        dtype="float32", views=views, augment="crop" if views else None, batch_size=5
    )
    images = ImageSet.open(bad.parent.parent)
    bases = [base(little, **options) for options in DIFFERENT]
    alone = [extract_features(images, each, Cache("alone"), settings) for each in bases]
    decoded.clear()
    together = extract_features(images, bases, Cache("together"), settings)
    assert list(map(facts, together)) == list(map(facts, alone))
    assert [[each.path for each in run.rejected] for run in together] == [[str(bad)]] * 4
    assert rows(Cache("together")) == rows(Cache("alone"))
    train = sum(item.split == "train" and item.path != str(bad) for item in images.items)
    # At the fraction of a size, a file is decoded again; not the bad one, whose size is unknown.
    assert len(decoded) == 2 * 11 + 1 + (train if views else 0)
    sets = [Path(name, "sets", f"{images.name}.csv").read_bytes() for name in ("alone", "together")]
    assert sets[0] == sets[1]


def test_images_of_all_proportions_are_shared_at_one_size(photographs, little, decoded):
    """At another size, the images have another order, and are decoded again."""
    bases = [
        base(little, keep_aspect=True, pool="avg", image_size=size, interpolation=how)
        for size, how in ((32, "bilinear"), (32, "bicubic"), (48, "bilinear"))
    ]
    for each in bases:
        extract_features(photographs, each, Cache("alone"), dtype="float32")
    decoded.clear()
    extract_features(photographs, bases, Cache("together"), dtype="float32")
    assert len(decoded) == 2 * 12
    assert rows(Cache("together")) == rows(Cache("alone"))


def test_only_what_a_bank_lacks_is_computed(make_images, little, decoded, calls):
    images = ImageSet.open(make_images(cat=6, dog=6))
    some, cache = replace(images, items=images.items[:5]), Cache("cache")
    small, large = base(little), base(little, "second", image_size=48)
    extract_features(some, small, cache)
    decoded.clear()
    first, second = extract_features(images, [small, large], cache)
    assert [(run.computed, run.cached) for run in (first, second)] == [(7, 5), (12, 0)]
    assert len(decoded) == 12
    calls.clear()
    decoded.clear()
    again = extract_features(images, [small, large], cache)
    assert [(run.computed, run.cached) for run in again] == [(0, 12), (0, 12)]
    assert calls == [3, 3]  # the canaries
    assert not decoded
    assert sum(run.seconds for run in again) > 0
    assert len(cache.runs()) == 5


def test_an_image_that_one_base_cannot_use_is_left_out_for_all(make_images, little):
    """So that the bases are compared on the same images; with the reason, in both records."""
    folder = make_images(cat=6, dog=6)
    wide = next(folder.rglob("*.png"))
    Image.open(wide).resize((90, 48)).save(wide)
    images = ImageSet.open(folder)
    bases = [base(little), base(little, max_pixels=48 * 48, interpolation="bicubic")]
    first, second = extract_features(images, bases, Cache("cache"))
    assert first.rejected == second.rejected
    assert "`max_pixels`" in first.rejected[0].reason
    assert [run.images for run in (first, second)] == [11, 11]
    assert first.image_set_digest == second.image_set_digest


def test_a_base_is_given_once(make_images, little):
    images = ImageSet.open(make_images(cat=3, dog=3))
    same = [base(little), FrozenBase(little, ["first", "second"], weights="random")]
    with pytest.raises(UsageError, match="two of the bases are little and have the same bank"):
        extract_features(images, [same[0], same[0].cut(["first"])], Cache("cache"))
    with pytest.raises(UsageError, match="no base to extract features with"):
        extract_features(images, [], Cache("cache"))


def test_an_overflow_names_the_base(make_images, little):
    images = ImageSet.open(make_images(cat=3, dog=3))
    broken = base(little, "second", image_size=48)
    ((device, module),) = broken._computes.items()
    large = nn.Sequential(module)
    large.forward = lambda batch: {name: 1e9 * each for name, each in module(batch).items()}
    broken._computes = {device: large}
    with pytest.raises(FeatureOverflowError, match="little: layer 'second' "):
        extract_features(images, [base(little), broken], Cache("cache"))
    assert extract_features(images, base(little), Cache("cache")).cached  # the other's first batch


def test_a_forecast_is_for_all(make_images, little):
    images = ImageSet.open(make_images(cat=6, dog=6))
    bases = [base(little), base(little, "second", image_size=48)]
    extract_features(images, bases[0], Cache("cache"))
    one, both = (forecast_extraction(images, each, Cache("cache")) for each in (bases[0], bases))
    assert (one.missing, one.model, one.bytes_on_disk) == (0, "little", 0)
    assert (both.missing, both.model, both.trial) == (12, "little, little", 12)
    apart = [forecast_extraction(images, each, Cache("new")) for each in bases]
    together = forecast_extraction(images, bases, Cache("new"))
    assert together.bytes_on_disk == sum(each.bytes_on_disk for each in apart)


@pytest.mark.ci
def test_a_killed_extraction_of_several_bases_goes_on(faces, little, site):
    """SIGKILL after the first parts: committed rows are kept, and the final bits are the same."""
    code = f"""
import sys
sys.path.insert(0, {str(site)!r})
from bottleneck import Cache, FrozenBase, ImageSet, extract_features
from bottleneck.cache import writer
writer.PART_BYTES = 100_000
bases = [FrozenBase("little", "first", weights="random", precision="fp32", image_size=size)
         for size in (32, 40)]
extract_features(ImageSet.from_folder({str(faces)!r}), bases, "killed", dtype="float32")
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen([sys.executable, "-c", code], env=environment)
    deadline = time.monotonic() + 120
    while len(list(Path("killed").rglob("parts/*.h5"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    kept = [len(bank.known("first")) for bank in Cache("killed").banks()]
    assert 0 < sum(kept) < 400
    images = ImageSet.from_folder(faces)
    bases = [base(little, image_size=size) for size in (32, 40)]
    done = extract_features(images, bases, Cache("killed"), dtype="float32")
    assert sorted(run.cached for run in done) == sorted([*kept, 0, 0][:2])
    extract_features(images, bases, Cache("whole"), dtype="float32")
    assert rows(Cache("killed")) == rows(Cache("whole"))

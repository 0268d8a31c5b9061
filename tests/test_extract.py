"""Extraction: exact in float16, computed once, robust to bad images.

About 5 s in the first tier.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from pydantic import TypeAdapter
from torchvision.models.feature_extraction import create_feature_extractor

from bottleneck import Cache, FrozenBase, ImageSet, extract_features, load_features, select_features
from bottleneck.bases import find_model
from bottleneck.errors import CacheError, DataError, FeatureOverflowError, UsageError
from bottleneck.extract import forecast_extraction
from bottleneck.extract.filling import carry_out
from bottleneck.extract.plan import Plan, plan_extraction
from bottleneck.extract.store import find_targets
from bottleneck.records import write_record
from bottleneck.settings import ExtractSettings, StoreSettings


@pytest.fixture
def tiny(little) -> FrozenBase:
    """A small network for arithmetic."""
    return FrozenBase(little, ["first", "second"], weights="random", precision="fp32")


CANARY = 3


@pytest.mark.parametrize(
    ("name", "layer"),
    [pytest.param("vgg16", "block5_pool", marks=pytest.mark.ci), ("resnet18", "layer4")],
)
def test_cached_features_equal_a_plain_forward(make_images, name, layer):
    """Weights from a file; equal to torchvision's transform and graph, up to float16."""
    torch.manual_seed(7)
    plain = find_model(name).build((224, 224)).eval()
    torch.save(plain.state_dict(), "weights.pth")
    folder = make_images(cat=4, dog=4)
    cache = Cache("cache")
    extract_features(
        ImageSet.from_folder(folder),
        FrozenBase(name, [layer], weights="weights.pth", precision="fp32"),
        cache,
    )
    features = load_features(cache)

    node = {"block5_pool": "features.30"}.get(layer, layer)
    reference = create_feature_extractor(plain, [node]).eval()
    preset = torchvision.models.get_model_weights(name).DEFAULT
    # The transform of the default weights goes with weights from a file.
    transform = preset.transforms()
    batch = torch.stack([transform(Image.open(path).convert("RGB")) for path in features.paths])
    with torch.inference_mode():
        expected = reference(batch)[node].flatten(1).numpy()
    assert features.X.shape == expected.shape
    spacing = np.spacing(np.abs(expected).astype(np.float16)).astype(np.float32)
    rounding = np.maximum(spacing, 1e-5 * np.abs(expected).max())
    assert (np.abs(features.X - expected) <= rounding).all()
    assert expected.std() > 1e-3


def test_a_second_run_computes_nothing(faces, tiny, tmp_path, calls):
    """The base is called only for the canary."""
    cache = Cache(tmp_path / "cache")
    first = extract_features(ImageSet.from_folder(faces), tiny, cache)
    assert first.computed == 200
    assert sum(calls) == 200 + CANARY
    parts = sorted(cache.root.rglob("*.h5"))
    stamps = [path.stat().st_mtime_ns for path in parts]
    calls.clear()
    second = extract_features(ImageSet.from_folder(faces), tiny, cache)
    assert sum(calls) == CANARY
    assert (second.computed, second.cached, second.bytes_written) == (0, 200, 0)
    assert [path.stat().st_mtime_ns for path in sorted(cache.root.rglob("*.h5"))] == stamps


def test_renamed_moved_relabelled_and_doubled_images_cost_nothing(make_images, tiny, calls):
    folder = make_images(cat=6, dog=6)
    cache = Cache("cache")
    extract_features(ImageSet.from_folder(folder), tiny, cache)
    calls.clear()
    (folder / "cat/000.png").rename(folder / "cat/renamed.png")
    (folder / "cat/001.png").rename(folder / "dog/relabelled.png")
    shutil.copy(folder / "dog/000.png", folder / "dog/doubled.png")
    shutil.move(folder, "moved")
    images = ImageSet.from_folder("moved")
    extraction = extract_features(images, tiny, cache)
    assert sum(calls) == CANARY
    assert (extraction.images, extraction.cached) == (13, 12)
    features = load_features(cache, select_features(cache, layer="second"))
    assert (features.labels == "dog").sum() == 8
    first, doubled = (list(features.paths).index(f"moved/dog/{n}.png") for n in ("000", "doubled"))
    assert np.array_equal(features.X[first], features.X[doubled])


def test_identical_images_are_computed_once(make_images, tiny, calls):
    folder = make_images(cat=4, dog=4)
    for number in range(5):
        shutil.copy(folder / "dog/000.png", folder / f"dog/copy{number}.png")
    extraction = extract_features(ImageSet.from_folder(folder), tiny, Cache("cache"))
    assert sum(calls) == 8 + CANARY
    assert (extraction.images, extraction.computed) == (13, 8)


def test_only_new_images_and_layers_are_computed(little, make_images, calls):
    folder = make_images(cat=4, dog=4)
    cache = Cache("cache")
    deep = FrozenBase(little, ["second"], weights="random")
    both = FrozenBase(little, ["first", "second"], weights="random")
    extract_features(ImageSet.from_folder(folder), deep, cache)
    calls.clear()
    make_images(fish=4, seed=5)
    added = extract_features(ImageSet.from_folder(folder), both, cache)
    assert added.computed == 12
    assert sum(calls) == 12 + CANARY
    info = {bank.name: set(bank.info.layers) for bank in cache.banks()}
    assert len(info) == 2
    for bank in cache.banks():
        (layer,) = bank.info.layers
        assert len(bank.known(layer)) == 12
        assert sum(part.rows for part in bank.parts()) == 12
    calls.clear()
    shallow = FrozenBase(little, ["first"], weights="random")
    assert extract_features(ImageSet.from_folder(folder), shallow, cache).cached == 12
    assert sum(calls) == CANARY


@pytest.mark.ci
def test_layers_of_equal_weights_share_a_bank(make_images):
    base = FrozenBase("vgg11", ["features.19", "features.20"], weights="random")
    cache = Cache("cache")
    extract_features(ImageSet.from_folder(make_images(cat=2, dog=2)), base, cache)
    (bank,) = cache.banks()
    assert set(bank.info.layers) == {"features.19", "features.20"}
    assert bank.info.layers["features.20"].alias == "block5_pool"
    assert len(bank.parts()) == 1


def corrupt(folder: Path) -> dict[str, str]:
    """Put bad images among the good ones; return a word of each reason by path."""
    whole = (folder / "cat/000.png").read_bytes()
    (folder / "cat/cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "cat/empty.jpg").write_bytes(b"")
    (folder / "dog/text.jpg").write_text("no image")
    (folder / "dog/folder.jpg").mkdir()
    return {
        "data/cat/cut.png": "truncated",
        "data/cat/empty.jpg": "empty",
        "data/dog/text.jpg": "not an image",
        "data/dog/folder.jpg": "folder",
    }


def test_bad_images_among_good_ones(make_images, tiny, calls):
    """Every good one is stored, every bad one is named; a second run computes nothing."""
    folder = make_images(cat=6, dog=6)
    reasons = corrupt(folder)
    cache = Cache("cache")
    for good, filled_up in ((12, 3), (0, 0)):  # a batch with fewer than four is filled up
        calls.clear()
        extraction = extract_features(ImageSet.from_folder(folder), tiny, cache, batch_size=5)
        assert good <= sum(calls) - CANARY <= good + filled_up
        assert extraction.images == 12
        found = {bad.path: bad.reason for bad in extraction.rejected}
        assert set(found) == set(reasons)
        for path, word in reasons.items():
            assert word in found[path]
    assert len(ImageSet.read_csv(cache.set_file("data")).items) == 12
    record = cache.runs()[-1]
    assert {bad.path for bad in record.rejected} == set(reasons)


def test_an_image_set_without_a_usable_image_is_an_error(make_images, tiny):
    folder = make_images(cat=3, dog=3)
    for path in folder.rglob("*.png"):
        path.write_bytes(path.read_bytes()[:60] + path.name.encode())
    with pytest.raises(DataError, match="none of the 6 images of 'data' could be used"):
        extract_features(ImageSet.from_folder(folder), tiny, Cache("cache"))
    assert not Cache("cache").banks()


def test_an_image_that_changes_meanwhile_is_not_stored_under_its_old_digest(make_images, tiny):
    folder = make_images(cat=3, dog=3)
    images = ImageSet.from_folder(folder)
    shutil.copy(folder / "dog/000.png", folder / "cat/000.png")
    extraction = extract_features(images, tiny, Cache("cache"))
    assert [bad.path for bad in extraction.rejected] == ["data/cat/000.png"]
    assert "changed" in extraction.rejected[0].reason


@pytest.mark.parametrize("more_images", [False, True])
def test_the_canary_stops_a_base_that_computes_differently(make_images, tiny, more_images):
    """As another library version or wrong weights would; also if nothing is computed."""
    folder = make_images(cat=3, dog=3)
    cache = Cache("cache")
    extract_features(ImageSet.from_folder(folder), tiny, cache)
    if more_images:
        make_images(fish=3, seed=8)
    for bank in cache.banks():
        info = bank.info
        for details in info.layers.values():
            details.canary[1][0] *= 1.01
        write_record(bank.path / "bank.json", info)
    for extract in (extract_features, forecast_extraction):
        with pytest.raises(CacheError, match="differ from those computed now"):
            extract(ImageSet.from_folder(folder), tiny, cache)


def test_swapped_weights_are_noticed(make_images):
    """A bank with wrong weights is detected before a row of it is used."""
    folder = make_images(cat=3, dog=3)
    cache = Cache("cache")

    def base_with(seed: int) -> FrozenBase:
        torch.manual_seed(seed)
        torch.save(find_model("squeezenet1_1").build((224, 224)).state_dict(), "mine.pth")
        return FrozenBase("squeezenet1_1", ["features.3"], weights="mine.pth")

    honest = base_with(0)
    (layer,) = extract_features(ImageSet.from_folder(folder), honest, cache).layers
    swapped = base_with(1)
    bank = cache.bank(swapped.model, swapped.fingerprint(layer.layer))
    assert not bank.exists  # by itself, another file under the same name is another fingerprint
    shutil.move(cache.bank(honest.model, layer.fingerprint).path, bank.path)
    lie = {"fingerprint": swapped.fingerprint(layer.layer)}
    provenance = swapped.provenance(layer.layer, "float16") | {"transform": swapped.transform}
    write_record(bank.path / "bank.json", replace(bank.info, **lie, **provenance))
    for path in bank.path.glob("parts/*.h5"):
        with h5py.File(path, "r+") as file:
            file.attrs.update(lie)
    parts = sorted(cache.root.rglob("parts/*"))
    with pytest.raises(CacheError, match="differ from those computed now"):
        extract_features(ImageSet.from_folder(folder), swapped, cache)
    assert sorted(cache.root.rglob("parts/*")) == parts


def test_a_bank_whose_fingerprint_is_not_its_names_gets_no_rows(make_images, tiny):
    folder = make_images(cat=3, dog=3)
    cache = Cache("cache")
    extract_features(ImageSet.from_folder(folder), tiny, cache)
    make_images(fish=3, seed=8)
    for bank in cache.banks():
        write_record(bank.path / "bank.json", replace(bank.info, fingerprint="0" * 64))
    parts = sorted(cache.root.rglob("parts/*"))
    with pytest.raises(CacheError, match="does not match its name"):
        extract_features(ImageSet.from_folder(folder), tiny, cache)
    assert sorted(cache.root.rglob("parts/*")) == parts


def test_a_layer_that_overflows_float16(make_images):
    """The error names the layer and the option; that option works."""
    torch.manual_seed(0)
    model = find_model("squeezenet1_1").build((224, 224))
    for parameter in model.features[0].parameters():
        parameter.data *= 1e6
    torch.save(model.state_dict(), "huge.pth")
    images = ImageSet.from_folder(make_images(cat=2, dog=2))
    base = FrozenBase("squeezenet1_1", ["features.1"], weights="huge.pth")
    with pytest.raises(FeatureOverflowError, match="'features.1' reaches .*`dtype=float32`"):
        extract_features(images, base, Cache("cache"))
    extract_features(images, base, Cache("cache"), dtype="float32")
    features = load_features(Cache("cache"), select_features(Cache("cache")))
    assert features.X.max() > 7e4


def test_weights_that_give_nan_leave_no_bank(make_images):
    """The second run gives the same error as the first."""
    model = find_model("squeezenet1_1").build((224, 224))
    model.features[0].weight.data *= 1e38
    torch.save(model.state_dict(), "inf.pth")
    images = ImageSet.from_folder(make_images(cat=2, dog=2))
    base = FrozenBase("squeezenet1_1", ["features.1"], weights="inf.pth")
    for _ in range(2):
        with pytest.raises(FeatureOverflowError, match="'features.1' gives nan or inf"):
            extract_features(images, base, Cache("cache"))
        assert not Cache("cache").banks()


def test_a_lost_bank_json_is_made_again(make_images, tiny):
    images = ImageSet.from_folder(make_images(cat=3, dog=3))
    cache = Cache("cache")
    extract_features(images, tiny, cache)
    before = [bank.info.layers for bank in cache.banks()]
    for bank in cache.banks():
        (bank.path / "bank.json").unlink()
    assert extract_features(images, tiny, cache).cached == 6
    assert [bank.info.layers for bank in cache.banks()] == before


def test_the_split_is_made_among_usable_images(make_images, tiny):
    """A corrupt file does not silently take a class's only training image."""
    folder = make_images(cat=4, dog=3)
    images = ImageSet.from_folder(folder)
    spoilt = next(item for item in images.items if (item.label, item.split) == ("dog", "test"))
    whole = Path(spoilt.path).read_bytes()
    for number in range(40):
        Path(spoilt.path).write_bytes(whole[: len(whole) // 2] + bytes([number]))
        images = ImageSet.from_folder(folder)
        split = {item.path: item.split for item in images.items}
        if split[spoilt.path] == "test":
            break
    extract_features(images, tiny, Cache("cache"))
    kept = ImageSet.read_csv(Cache("cache").set_file("data"))
    assert {(item.label, item.split) for item in kept.items} == {
        ("cat", "train"),
        ("cat", "test"),
        ("dog", "train"),
        ("dog", "test"),
    }
    second = make_images("second", cat=4, dog=3)
    for number in range(2):
        (second / f"dog/00{number}.png").write_bytes(bytes([number]) * 300)
    with pytest.raises(DataError, match="class 'dog' .* 2 of the images could not be used, first"):
        extract_features(ImageSet.from_folder(second), tiny, Cache("cache"))


def test_every_kind_of_file_gets_a_row(tiny):
    """All formats and modes go through to features."""
    folder = Path("data/all")
    folder.mkdir(parents=True)
    noise = Image.effect_noise((50, 40), 80).convert("RGB")
    for ending in ("jpg", "png", "webp", "bmp", "tiff", "gif"):
        noise.save(folder / f"a.{ending}")
    for mode in ("L", "P", "RGBA", "LA", "1"):
        noise.convert(mode).save(folder / f"{mode}.png")
    noise.convert("CMYK").save(folder / "cmyk.jpg")
    Image.fromarray(np.arange(2000, dtype=np.uint16).reshape(40, 50) * 30).save(folder / "16.png")
    extraction = extract_features(ImageSet.from_folder(folder), tiny, Cache("cache"))
    assert not extraction.rejected
    assert extraction.images == 13


def test_progress_is_reported(make_images, tiny):
    reports = []
    extract_features(
        ImageSet.from_folder(make_images(cat=5, dog=5)),
        tiny,
        Cache("cache"),
        batch_size=4,
        progress=lambda *report, **counts: reports.append((*report, counts)),
    )
    each = sum(np.prod(shape) for shape in tiny.shapes.values()) * 2
    assert reports == [
        ("extract", done, 10, {"cached": 0, "bytes_written": done * each}) for done in (0, 4, 8, 10)
    ]


def test_invalid_arguments_are_refused(make_images, tiny):
    images = ImageSet.from_folder(make_images(cat=2, dog=2))
    with pytest.raises(UsageError, match="`dtype` must be float16 or float32, got 'float8'"):
        extract_features(images, tiny, Cache("cache"), dtype="float8")
    with pytest.raises(
        UsageError, match="`batch_size` must be auto or a whole number from 1 to 99999, got 0"
    ):
        extract_features(images, tiny, Cache("cache"), batch_size=0)


@pytest.mark.ci
def test_a_killed_extraction_goes_on(faces, lite0, tmp_path):
    """SIGKILL after the first parts: committed rows are kept, and the final result is the same."""
    code = f"""
from bottleneck import Cache, FrozenBase, ImageSet, extract_features
from bottleneck.cache import writer
writer.PART_BYTES = 50_000
extract_features(ImageSet.from_folder({str(faces)!r}), FrozenBase("efficientnet_lite0"),
        Cache({str(tmp_path / "killed")!r}), batch_size=4)
"""
    process = subprocess.Popen([sys.executable, "-c", code])
    folder = tmp_path / "killed"
    deadline = time.monotonic() + 60
    while len(list(folder.rglob("parts/*.h5"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    (bank,) = Cache(folder).banks()
    kept = len(bank.known("global_pool.flatten"))
    assert 0 < kept < 200
    resumed = extract_features(ImageSet.from_folder(faces), lite0, Cache(folder), batch_size=4)
    assert (resumed.computed, resumed.cached) == (200 - kept, kept)
    undisturbed = Cache(tmp_path / "whole")
    extract_features(ImageSet.from_folder(faces), lite0, undisturbed, batch_size=4)
    one, other = (load_features(c, select_features(c)) for c in (Cache(folder), undisturbed))
    assert np.allclose(one.X, other.X, rtol=2e-3, atol=1e-4)


@pytest.mark.ci
@pytest.mark.isa
def test_an_image_has_the_same_features_alone_and_in_company(faces, lite0, tmp_path):
    """Bitwise, so that a continued run equals an uninterrupted one."""
    images = ImageSet.from_folder(faces)
    layer = "global_pool.flatten"
    whole, apart = Cache(tmp_path / "whole"), Cache(tmp_path / "apart")
    extract_features(replace(images, items=images.items[:40]), lite0, whole, dtype="float32")
    for some in (slice(0, 1), slice(0, 4), slice(2, 37), slice(0, 40)):
        part = replace(images, items=images.items[some])
        extract_features(part, lite0, apart, dtype="float32", batch_size=5)
    digests = [item.digest for item in images.items[:40]]
    (one,), (other,) = whole.banks(), apart.banks()
    assert np.array_equal(one.read(layer, digests), other.read(layer, digests))


VIEWED = StoreSettings(views=2, augment="crop", dtype="float32")


def plans_of(images: ImageSet, base: FrozenBase, cache: Cache) -> list[Plan]:
    return plan_extraction(images, find_targets(base, cache, VIEWED))


def test_a_plan_is_plain_data(make_images, tiny):
    """It is JSON, also for views, and for images that lack one of two layers."""
    images = ImageSet.from_folder(make_images(cat=3, dog=3))
    cache = Cache("cache")
    extract_features(replace(images, items=images.items[:4]), tiny.cut(["first"]), cache)
    plans = plans_of(images, tiny, cache)
    assert [plan.rows for plan in plans] == [6, 2 * 4]
    for plan in plans:
        text = json.dumps(asdict(plan))
        assert TypeAdapter(Plan).validate_json(text) == plan
    (plan,) = plan_extraction(images, find_targets(tiny, cache, StoreSettings()))
    missing = {task.layers: len(task.items) for task in plan.tasks}
    assert missing == {("second",): 4, ("first", "second"): 2}
    assert TypeAdapter(Plan).validate_json(json.dumps(asdict(plan))) == plan


@pytest.mark.ci
def test_a_divided_plan_gives_the_rows_of_the_whole(make_images, tiny):
    """Each part with its own base and targets; no image is computed twice."""
    images = ImageSet.from_folder(make_images(cat=5, dog=6))
    whole, shared = Cache("whole"), Cache("shared")
    extract_features(images, tiny, whole, VIEWED)
    plans = plans_of(images, tiny, shared)
    halves = list(zip(*(plan.divided(2) for plan in plans), strict=True))
    assert [[plan.images for plan in half] for half in halves] == [[6, 5], [5, 4]]
    for half in halves:
        for plan, target in zip(half, find_targets(tiny, shared, VIEWED), strict=True):
            (done,) = carry_out([plan], [target])
            assert done.rows == plan.rows
    assert not any(plan.tasks for plan in plans_of(images, tiny, shared))
    for one, other in zip(whole.banks(), shared.banks(), strict=True):
        (layer,) = one.info.layers
        keys = sorted(one.known(layer))
        assert sorted(other.known(layer)) == keys
        assert sum(part.rows for part in other.parts()) == len(keys)
        digests, views = [digest for digest, _ in keys], np.array([view for _, view in keys])
        rows = one.read(layer, digests, view=views)
        assert np.array_equal(rows, other.read(layer, digests, view=views))


def test_a_base_of_other_banks_is_refused(tiny):
    cache = Cache("cache")
    (target,) = find_targets(tiny, cache, StoreSettings())
    other = FrozenBase("little", tiny.layers, weights="random:1", precision="fp32")
    with pytest.raises(CacheError, match="'random:1' is not the base of bank little-"):
        replace(target, base=other)


def test_processes_that_compute_other_features_do_not_share_a_bank(tiny):
    """Not even if both began before the bank was there, as on machines with other versions."""
    cache = Cache("cache")
    (one,) = find_targets(tiny, cache, StoreSettings())
    layer = next(iter(one.banks))
    (same,) = find_targets(tiny, cache, StoreSettings())
    twice = [[2 * value for value in row] for row in one.canary[layer]]
    other = replace(same, canary={**one.canary, layer: twice})
    one.describe([layer])
    same.describe([layer])
    with pytest.raises(CacheError, match="differ from those computed now"):
        other.describe([layer])


def test_settings_of_another_base_are_refused(make_images, tiny):
    images = ImageSet.from_folder(make_images(cat=3, dog=3))
    with pytest.raises(UsageError, match="the settings describe another base than little"):
        extract_features(images, tiny, Cache("cache"), ExtractSettings("vgg16"))


def test_paths_are_opened(make_images, tiny):
    folder = make_images(cat=3, dog=3)
    assert forecast_extraction(folder, tiny, "cache").missing == 6
    assert extract_features(str(folder), tiny, Path("cache")).computed == 6
    with pytest.raises(UsageError, match="`dtype` was given together with StoreSettings"):
        extract_features(folder, tiny, "cache", StoreSettings(), dtype="float32")

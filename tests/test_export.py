"""A head and its base in one file: the same answers in another runtime.

About 60 s in the first tier, most of it the exporter's.
"""

import base64
import errno
import hashlib
import json
import os
import re
import subprocess
import sys
import zipfile
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import yaml
from browsing import in_chromium
from conftest import crops, photograph
from PIL import ExifTags, Image, ImageOps

from bottleneck import (
    Cache,
    FrozenBase,
    Head,
    ImageSet,
    evaluate_head,
    export_head,
    extract_features,
    finetune_head,
    fit_head,
    join_layers,
    load_base,
    load_features,
    predict_images,
    select_features,
    unpack_head,
)
from bottleneck.bases import Transform, find_model
from bottleneck.errors import DataError, ExportError, PathMissingError, UsageError, WeightsError
from bottleneck.export import run
from bottleneck.export.networks import load_parts
from bottleneck.export.onnx_files import joined, made_onnx
from bottleneck.export.preprocessing import preprocessing_graph
from bottleneck.images import decode
from bottleneck.records import (
    SHIPPED,
    ModelRecord,
    ShippedRecord,
    public_name,
    read_record,
    write_record,
)
from bottleneck.settings import ExportSettings, FinetuneSettings


@pytest.fixture
def data() -> Path:
    """Sixty small images, twenty each of red, green and blue crops of photographs."""
    for channel, label in enumerate(("cat", "cow", "dog")):
        folder = Path("data", label)
        folder.mkdir(parents=True)
        for number, crop in enumerate(crops(20, seed=channel)):
            values = np.asarray(crop) // 2
            values[..., channel] *= 2
            Image.fromarray(values).save(folder / f"{number:03d}.png")
    return Path("data")


@pytest.fixture
def cache(little, data) -> Cache:
    """A cache with the features of these images."""
    cache = Cache("cache")
    base = FrozenBase(little, ["penultimate"], weights="random", precision="fp32")
    extract_features(ImageSet.from_folder(data), base, cache)
    return cache


def saved(cache: Cache, clf: str = "softmax", name: str = "pets", **options) -> Head:
    head = fit_head(load_features(cache), clf, **options)
    head.save(Path("heads") / name)
    return head


def probabilities(head: Head, paths) -> np.ndarray:
    found = predict_images(head, paths)
    return np.array([list(each.probabilities.values()) for each in found])


def pixels(head: Head, paths) -> np.ndarray:
    transform = load_base(head).transform
    return np.stack([transform(Image.open(path).convert("RGB")).numpy() for path in paths])


PATHS = ["data/cat/000.png", "data/cow/001.png", "data/dog/002.png"]


def session_of(file: str) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize(
    "clf", ["knn", *(pytest.param(each, marks=pytest.mark.ci) for each in ("mlp", "logreg"))]
)
def test_onnx_runtime_gives_the_heads_answers(cache, clf):
    """For batches of any size."""
    head = saved(cache, clf)
    found = export_head("pets", "pets.onnx")
    assert (found.format, found.images) == ("onnx", 60)
    assert found.same == found.clear > 0
    assert found.difference < 1e-3
    session = session_of("pets.onnx")
    for count in (1, 3):
        seen = {"pixels": pixels(head, PATHS[:count])}
        (given,) = session.run(["probabilities"], seen)
        np.testing.assert_allclose(given, probabilities(head, PATHS[:count]), atol=1e-3)


def test_images_of_any_size_go_in_and_the_file_says_what_comes_out(cache):
    head = saved(cache)
    found = export_head("pets", "pets.onnx", with_preprocessing=True)
    assert found.input == "images"
    assert found.tolerance == 1e-2
    session = session_of("pets.onnx")
    for size in ((451, 300), (40, 97)):
        whole = Image.fromarray(photograph("chelsea")).resize(size)
        whole.save("whole.png")
        (given,) = session.run(None, {"images": np.asarray(whole)[None]})
        np.testing.assert_allclose(given, probabilities(head, ["whole.png"]), atol=1e-2)
    record = ShippedRecord.of_json(session.get_modelmeta().custom_metadata_map[SHIPPED])
    assert record.classes == ("cat", "cow", "dog")
    assert (record.input, record.multilabel, record.thresholds) == ("images", False, ())
    assert record.transform.crop == (32, 32)
    assert record.fingerprints == (head.source.fingerprint,)
    own = Path("heads/pets/head.json").read_bytes()
    assert record.head_sha256 == hashlib.sha256(own).hexdigest()


SHAPES = ((300, 451), (451, 300), (50, 70), (131, 97), (33, 260))
WAYS = {
    "shorter side": {"resize": (256, 256), "crop": (224, 224)},
    "odd crop of a box": {"resize": (90, 120), "crop": (77, 99)},
    "squash": {"resize": (100, 100), "crop": (99, 97), "squash": True},
    "padded": {"resize": (60, 60), "crop": (64, 67)},
    "whole": {"resize": (96, 96), "crop": (96, 96), "keep_aspect": True},
    "multiples": {"resize": (96, 96), "crop": (96, 96), "keep_aspect": True, "multiple": 16},
}


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("way", WAYS)
def test_preprocessing_in_the_graph_is_that_of_pillow(way, interpolation):
    """The shapes are the same, and few pixels differ, by a few of 255 levels."""
    transform = Transform(
        interpolation=interpolation, mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3), **WAYS[way]
    )
    graph = preprocessing_graph(transform, 18, 10)
    onnx.checker.check_model(graph)
    session = onnxruntime.InferenceSession(graph.SerializeToString())
    for height, width in SHAPES:
        image = np.asarray(Image.fromarray(photograph("chelsea")).resize((width, height)))
        (given,) = session.run(None, {"images": image[None]})
        expected = transform(image).numpy()
        assert given.shape == (1, *expected.shape)
        levels = np.abs(given[0] - expected) * np.float32(transform.std)[:, None, None] * 255
        assert levels.mean() < 0.3
        assert levels.max() < 6


@pytest.mark.ci
def test_half_precision_and_integers(cache):
    """The head itself is always in float32; accuracies leave out images that it has seen."""
    head = saved(cache)
    half = export_head("pets", "half.onnx", precision="fp16")
    assert half.difference < half.tolerance == 1e-2
    small = export_head("pets", "small.onnx", precision="int8")
    assert (small.tolerance, small.held_out) == (None, 12)
    assert abs(small.accuracy_before - small.accuracy_after) <= 0.25
    kinds = {
        file: {each.data_type for each in onnx.load(file).graph.initializer}
        for file in ("half.onnx", "small.onnx")
    }
    assert onnx.TensorProto.FLOAT16 in kinds["half.onnx"]
    assert onnx.TensorProto.INT8 in kinds["small.onnx"]
    features = load_features(cache)
    known = features.digests[features.splits == "test"][0]
    replace(head, seen=head.seen | {known}).save("heads/pets")
    assert export_head("pets", "small.onnx", precision="int8").held_out == 11


def test_integers_take_images_too(cache):
    """And give the head's class for those that are clear."""
    head = saved(cache)
    found = export_head("pets", "pets.onnx", precision="int8", with_preprocessing=True)
    assert found.input == "images"
    assert found.images == 60
    assert found.same >= 0.9 * found.clear
    session, paths = session_of("pets.onnx"), sorted(map(str, Path("data").rglob("*.png")))
    expected = probabilities(head, paths)
    given = [session.run(None, {"images": np.asarray(Image.open(path))[None]}) for path in paths]
    given = np.concatenate([rows for (rows,) in given])
    best = np.sort(expected)
    clear = best[:, -1] - best[:, -2] > 0.3
    assert clear.sum() > 20
    assert (given.argmax(axis=1) == expected.argmax(axis=1))[clear].mean() >= 0.9


@pytest.mark.ci
@pytest.mark.parametrize(
    ("model", "weights", "shares"),
    [
        ("efficientnet_lite0", "default", {"fp16": 1.0, "int8": 2 / 3}),
        ("timm:vit_tiny_patch16_224", "random", {"fp16": 1.0}),
    ],
)
def test_families_in_half_precision_and_in_integers(data, model, weights, shares):
    """EfficientNet-Lite0 with its weights of ImageNet; of a transformer with random ones, fp16.

    In integers, the class is that of the head for two of three images whose class is clear; a
    guess among three classes is right for one of three.
    """
    base = FrozenBase(model, ["penultimate"], weights=weights, precision="fp32")
    store = Cache("cache")
    extract_features(ImageSet.from_folder(data), base, store)
    head = saved(store)
    paths = sorted(map(str, data.rglob("*.png")))
    expected, seen = probabilities(head, paths), pixels(head, paths)
    best = np.sort(expected)
    clear = best[:, -1] - best[:, -2] > 0.3
    assert clear.sum() > 20
    for precision, share in shares.items():
        found = export_head("pets", f"{precision}.onnx", precision=precision)
        (given,) = session_of(f"{precision}.onnx").run(None, {"pixels": seen})
        assert (given.argmax(axis=1) == expected.argmax(axis=1))[clear].mean() >= share
        assert precision == "int8" or (found.difference <= 1e-2 and found.same == found.clear > 0)


def test_integers_that_are_noise_are_an_error(cache, monkeypatch):
    """As of a network whose activations do not fit into 8 bits."""
    saved(cache)

    def noise(model, _):
        weights = next(each for each in model.graph.initializer if len(each.dims) > 1)
        size = int(np.prod(weights.dims))
        values = np.random.default_rng(0).normal(size=size).astype(np.float32) * 1e-3
        weights.CopyFrom(onnx.numpy_helper.from_array(values.reshape(weights.dims), weights.name))
        return model

    monkeypatch.setattr("bottleneck.export.onnx_files.quantised", noise)
    with pytest.raises(ExportError, match=r"^integers do not give .* correlation .*precision=fp16"):
        export_head("pets", "pets.onnx", precision="int8")
    assert not list(Path().glob("*pets.onnx*"))


def test_errors_of_the_libraries_that_write_are_one_sentence(cache, monkeypatch):
    head = saved(cache)
    parts = load_parts(head)
    _, graph = made_onnx(parts, ExportSettings())
    export_head("pets", "pets.onnx")
    text = session_of("pets.onnx").get_modelmeta().custom_metadata_map[SHIPPED]
    record = ShippedRecord.of_json(text)
    with pytest.raises(
        ExportError, match=r"^little and the head cannot be joined .*; export a \.pt"
    ):
        joined(graph, graph, parts, record, 18)  # takes features, and gives none

    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("no kernel\nmore")

    monkeypatch.setattr("torch.export.save", fails)
    with pytest.raises(
        ExportError, match=r"cannot write .* \(RuntimeError: no kernel\); export an"
    ):
        export_head("pets", "pets.pt2")
    where = "onnxruntime.transformers.float16.convert_float_to_float16"
    monkeypatch.setattr(where, fails)
    with pytest.raises(ExportError, match=r"half precision \(RuntimeError: no kernel\); export it"):
        made_onnx(parts, ExportSettings(precision="fp16"))
    assert [path.name for path in Path().glob("pets.*")] == ["pets.onnx"]


@pytest.mark.ci
def test_integers_of_a_head_without_test_images(little, data):
    """There is no accuracy to tell, neither in the result nor in the card."""
    rows = [f"{path.as_posix()},{path.parent.name},train" for path in data.rglob("*.png")]
    Path("table.csv").write_text("\n".join(["path,label,split", *rows]))
    store = Cache("cache")
    extract_features(ImageSet.open("table.csv"), FrozenBase(little, weights="random"), store)
    saved(store)
    found = export_head("pets", "pets.onnx", precision="int8", card=True)
    assert (found.held_out, found.accuracy_before, found.accuracy_after) == (0, None, None)
    assert "- The base computes with 8-bit integers.\n" in Path("README.md").read_text()


WITHOUT_THIS_PACKAGE = """
import json, sys, torch
sys.modules["bottleneck"] = None
files = {"bottleneck.json": ""}
program = torch.export.load("pets.pt2", extra_files=files).module()
pixels = torch.load("pixels.pt")
found = [program(pixels[:count]).tolist() for count in (1, 3)]
print(json.dumps([json.loads(files["bottleneck.json"])["classes"], *found]))
"""


@pytest.mark.parametrize(
    "clf", ["softmax", *(pytest.param(each, marks=pytest.mark.ci) for each in ("knn", "mlp"))]
)
def test_torch_loads_a_pt2_file_without_this_package(cache, clf):
    head = saved(cache, clf)
    found = export_head("pets", "pets.pt2")
    assert (found.format, found.same) == ("pt2", found.clear)
    torch.save(torch.from_numpy(pixels(head, PATHS)), "pixels.pt")
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", WITHOUT_THIS_PACKAGE],
        capture_output=True,
        text=True,
        check=True,
    )
    classes, one, three = json.loads(ended.stdout)
    assert classes == ["cat", "cow", "dog"]
    np.testing.assert_allclose(one, three[:1], atol=1e-6)
    np.testing.assert_allclose(three, probabilities(head, PATHS), atol=1e-3)


def test_an_archive_needs_nothing_that_is_left_behind(little, data):
    """Neither the cache, nor the weights, nor the folder of the heads."""
    torch.manual_seed(0)
    torch.save(find_model(little).build((32, 32)).state_dict(), "weights.pth")
    store = Cache("cache")
    base = FrozenBase(little, ["first_relu"], weights="weights.pth", pool="avg", image_size=40)
    extract_features(ImageSet.from_folder(data), base, store)
    head = saved(store)
    expected = probabilities(head, PATHS)
    found = export_head("pets", "pets.zip")
    assert (found.format, found.input, found.difference) == ("zip", "files", 0)
    for gone in ("weights.pth", "cache", "heads"):
        Path(gone).rename(f"moved {gone}")
    folder = unpack_head("pets.zip", "elsewhere/pets")
    again = Head.load(folder)
    assert again.source.model == "elsewhere/pets"
    np.testing.assert_array_equal(probabilities(again, PATHS), expected)
    Path("elsewhere").rename("moved")
    np.testing.assert_array_equal(probabilities(Head.load("moved/pets"), PATHS), expected)
    with zipfile.ZipFile("pets.zip") as archive:
        weights = torch.frombuffer(bytearray(archive.read("base.safetensors")), dtype=torch.uint8)
    assert len(weights) < 2000  # only the first layer's


def test_damaged_archives_are_refused(cache):
    saved(cache)
    export_head("pets", "pets.zip")
    whole = Path("pets.zip").read_bytes()
    Path("cut.zip").write_bytes(whole[:500])
    with pytest.raises(DataError, match="cannot be unpacked as an exported head"):
        unpack_head("cut.zip", "cut")
    with zipfile.ZipFile("pets.zip", "a") as archive:
        archive.writestr("../outside", "")
    with pytest.raises(DataError, match=r"it holds '\.\./outside'"):
        unpack_head("pets.zip", "out")
    with pytest.raises(PathMissingError, match="no file 'none.zip'"):
        unpack_head("none.zip", "out")
    assert not {"cut", "out", "outside"} & {path.name for path in Path().iterdir()}
    Path("pets.zip").write_bytes(whole)
    (unpack_head("pets.zip", "heads/other") / "base.safetensors").write_bytes(b"0" * 100)
    with pytest.raises(WeightsError, match="do not belong together; unpack its .zip again"):
        load_base(Head.load("heads/other"))


def test_several_classes_joined_layers_and_adjusted_features(little, data):
    base = FrozenBase(little, ["first_relu", "penultimate"], weights="random", pool="avg")
    rows = [
        f"{path.as_posix()},{path.parent.name}{';odd' if int(path.stem) % 2 else ''}"
        for path in sorted(data.rglob("*.png"))
    ]
    Path("table.csv").write_text("\n".join(["path,label", *rows]))
    store = Cache("cache")
    extract_features(ImageSet.open("table.csv"), base, store)
    both = [select_features(store, layer=each) for each in ("first_relu", "penultimate")]
    features = load_features(store, join_layers(both))
    head = fit_head(features, "logreg", power=0.5, normalize="l2")
    head.save("heads/pets")
    for file in ("pets.onnx", "pets.pt2", "pets.zip"):
        found = export_head("pets", file)
        assert found.difference < 1e-3
    record = session_of("pets.onnx").get_modelmeta().custom_metadata_map[SHIPPED]
    assert ShippedRecord.of_json(record).thresholds == (0.5,) * 4
    assert Head.load(unpack_head("pets.zip", "moved")).source.model == "moved"


def test_a_file_with_other_answers_is_an_error_and_leaves_nothing(cache, monkeypatch):
    """The tolerance is below what float32 rounds."""
    saved(cache)
    Path("pets.onnx").write_text("what was there")
    monkeypatch.setitem(run._TOLERANCES, "fp16", 1e-9)
    with pytest.raises(ExportError, match="does not give the head's answers: .* no file is wri"):
        export_head("pets", "pets.onnx", precision="fp16")
    assert Path("pets.onnx").read_text() == "what was there"
    assert [path.name for path in Path().glob("*onnx*")] == ["pets.onnx"]


def test_bad_input_is_one_sentence(cache, monkeypatch, bottleneck):
    saved(cache)
    cases = {
        ("pets", "pets.tflite"): "has the ending '.tflite', expected .onnx",
        ("pets", "pets.pt2", "--precision", "int8"): "--precision is for .onnx files",
        ("pets", "pets.zip", "--with-preprocessing"): "--with-preprocessing is for .onnx files",
        ("pets", "pets.onnx", "--opset", "11"): "--opset 11 is too old",
        ("pets", "pets.onnx", "--opset", "99"): "PyTorch cannot write the head with --opset 99",
        ("dogs", "dogs.onnx"): "no head 'dogs'",
        ("pets", "heads"): "'heads' cannot be used (Is a directory)",
        ("pets", "pets"): "has no ending",
        ("pets", "pets.onnx", "--cache", "none"): "no image set 'data' in the cache folder 'none'",
    }
    for arguments, told in cases.items():
        ended = bottleneck("export", *arguments)
        assert ended.code in {1, 2}
        assert told in ended.err
        assert ended.err.count("\n") == 1
    monkeypatch.setattr(run, "find_spec", lambda name: None if name == "onnx" else find_spec(name))
    monkeypatch.setitem(sys.modules, "onnx", None)
    ended = bottleneck("export", "pets", "pets.onnx")
    assert "an .onnx file needs onnx, which is not installed" in ended.err
    assert "pip install -e '.[onnx]'" in ended.err
    Path("file").touch()
    ended = bottleneck("export", "pets", "file/pets.zip")
    assert "cannot be used (Not a directory)" in ended.err
    for path in Path("data").rglob("*.png"):
        path.unlink()
    ended = bottleneck("export", "pets", "pets.zip")
    assert "none of 60 images of the set can be read from disk, first 'data/cat/" in ended.err
    assert not list(Path().glob("pets.*"))


def test_heads_on_several_bases_and_moved_weights_are_refused(little, data):
    store, images = Cache("cache"), ImageSet.from_folder(data)
    sources = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        torch.save(find_model(little).build((32, 32)).state_dict(), f"{seed}.pth")
        base = FrozenBase(little, weights=f"{seed}.pth")
        extract_features(images, base, store)
        sources.append(select_features(store))
    fit_head(load_features(store, join_layers(sources)), "softmax").save("heads/two")
    with pytest.raises(UsageError, match="features of 2 bases .* and a file holds one"):
        export_head("two", "two.onnx")
    fit_head(load_features(store, sources[0]), "softmax").save("heads/one")
    Path("0.pth").rename("moved.pth")
    with pytest.raises(PathMissingError, match="no weights file '0.pth'"):
        export_head("one", "one.zip")
    assert export_head("one", "one.zip", weights="moved.pth").difference == 0


def test_interpolation_that_onnx_lacks_is_refused(little, data):
    store = Cache("cache")
    base = FrozenBase(little, weights="random", interpolation="lanczos")
    extract_features(ImageSet.from_folder(data), base, store)
    saved(store)
    with pytest.raises(UsageError, match="ONNX cannot resize by lanczos, only by bilinear"):
        export_head("pets", "pets.onnx", with_preprocessing=True)


def test_a_model_card_tells_data_scores_and_use(cache, bottleneck):
    head = saved(cache)
    evaluation = evaluate_head(head, load_features(cache))
    evaluation.save("heads/pets/evaluation-test.json")
    ended = bottleneck("export", "pets", "card/pets.onnx", "--card", "--with-preprocessing")
    assert (ended.code, ended.err.count("error")) == (0, 0)
    assert "model card: card/README.md" in ended.out
    assert "no accuracy" not in ended.err
    text = Path("card/README.md").read_text()
    _, front, body = text.split("---\n", 2)
    facts = yaml.safe_load(front)
    assert facts["pipeline_tag"] == "image-classification"
    (result,) = facts["model-index"][0]["results"]
    assert result["metrics"][0]["value"] == round(evaluation.accuracy, 4)
    assert "| cat | 16 | 4 |" in body.replace(" train", "")
    low, high = evaluation.accuracy_interval
    assert f"{low:.4f} to {high:.4f}" in body
    cat = evaluation.classes[0]
    low, high = cat.recall_interval
    assert low < cat.recall <= high
    assert f"| {cat.recall:.4f} | {low:.4f} to {high:.4f} |" in body
    lying = Image.Exif()
    lying[ExifTags.Base.Orientation] = 6
    whole = Image.fromarray(photograph("chelsea"))
    whole.crop((100, 50, 198, 197)).save("card/image.jpg", quality=100, exif=lying)
    expected = probabilities(head, ["card/image.jpg"])[0]
    upright = Image.open("card/image.jpg").convert("RGB")
    upright.save("card/lying.png")
    assert np.abs(probabilities(head, ["card/lying.png"])[0] - expected).max() > 1e-2
    Path("heads/pets/evaluation-test.json").write_text('{"accuracy": 1}')  # of another version
    ended = bottleneck("export", "pets", "pets.pt2", "--card")
    assert "the card has no accuracy on test images, as no evaluation of" in ended.err
    assert "Not evaluated yet" in Path("README.md").read_text()
    for card, tolerance in (("card/README.md", 1e-2), ("README.md", 1e-3)):
        (code,) = re.findall(r"```python\n(.*?)```", Path(card).read_text(), re.DOTALL)
        Path("image.jpg").write_bytes(Path("card/image.jpg").read_bytes())
        ended = subprocess.run(
            [sys.executable, "-c", code],
            cwd=Path(card).parent,
            capture_output=True,
            text=True,
            check=True,
        )
        given = eval(ended.stdout)
        assert list(given) == ["cat", "cow", "dog"]
        np.testing.assert_allclose(list(given.values()), expected, atol=tolerance)
        assert_opened_as_decoded(code)
    assert_opened_as_decoded(Path(DOCS, "export.md").read_text())


DOCS = Path(__file__).parent.parent / "docs"


def assert_opened_as_decoded(code: str) -> None:
    """Lines of Python that open an image give the pixels that `decode` does, whatever its kind."""
    lines = re.search(r'image = ImageOps.*?image.jpg.*?convert\("RGB"\)\n', code, re.DOTALL)[0]
    colours = crops(1, size=60)[0]
    deep = np.asarray(colours.convert("L")).astype(np.uint16) * 250
    for number, image in enumerate([colours, colours.convert("LA"), Image.fromarray(deep)]):
        image.save(f"kind-{number}.png")
        names = {"Image": Image, "ImageOps": ImageOps, "np": np}
        exec(lines.replace("image.jpg", f"kind-{number}.png"), names)
        expected = decode(Path(f"kind-{number}.png").read_bytes())
        np.testing.assert_array_equal(np.asarray(names["image"]), expected)
    assert Image.open("kind-2.png").getextrema()[1] > 40_000


ORT = """class Tensor {
  constructor(type, data, dims) { Object.assign(this, {type, data: Array.from(data), dims}); }
}
const ort = {Tensor, InferenceSession: {create: async name => ({
  run: async given => {
    window.given = given;
    return {name, probabilities: {data: [0.5, 0.25, 0.25]}};
  },
})}};
"""


@pytest.mark.ci
@in_chromium
def test_the_javascript_of_a_card_gives_the_files_input(cache, browser):
    """In Chromium: Pillow's pixels, transparent parts white. The runtime is a stand-in."""
    saved(cache)
    export_head("pets", "pets.onnx", card=True, with_preprocessing=True)
    (code,) = re.findall(r"```js\n(.*?)```", Path("README.md").read_text(), re.DOTALL)
    image = crops(1, size=40)[0].crop((0, 0, 40, 30)).convert("RGBA")
    image.putpixel((3, 2), (0, 0, 0, 0))
    image.save("image.png")
    sent = base64.b64encode(Path("image.png").read_bytes()).decode()
    first, *lines = code.splitlines()
    assert first == 'import * as ort from "onnxruntime-web";'
    page, said = browser.new_page(), []
    page.on("console", lambda message: said.append(message.args[0].json_value()))
    page.evaluate(
        "async () => {"
        f"const file = await (await fetch('data:image/png;base64,{sent}')).blob();"
        + "\n".join([ORT, *lines])
        + "}"
    )
    given = page.evaluate("window.given.images")
    page.close()
    pixels = np.asarray(Image.open("image.png").convert("RGBA"))
    expected = pixels[..., :3].copy()
    expected[2, 3] = 255
    assert given["type"] == "uint8"
    assert given["dims"] == [1, 30, 40, 3]
    assert np.array_equal(np.array(given["data"]).reshape(30, 40, 3), expected)
    assert said == [{"cat": 0.5, "cow": 0.25, "dog": 0.25}]


def test_another_readme_is_not_replaced(cache):
    saved(cache)
    Path("README.md").write_text("mine")
    with pytest.raises(UsageError, match="'README.md' already exists and was not written by"):
        export_head("pets", "pets.onnx", card=True)
    assert Path("README.md").read_text() == "mine"


def test_a_card_that_cannot_be_written_leaves_no_file(cache, monkeypatch):
    saved(cache)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("bottleneck.export.run.write_card", full)
    with pytest.raises(
        DataError, match=r"model card beside 'pets\.zip' cannot be written \(No space"
    ):
        export_head("pets", "pets.zip", card=True)
    assert not [*Path().glob("*pets.zip*")]


def with_start(record: ModelRecord, weights: str) -> ModelRecord:
    """The record of a model that was trained from a head on other weights."""
    return replace(record, started_from=replace(record.started_from, weights=weights))


@pytest.mark.ci
def test_a_fine_tuned_network_is_exported(cache):
    """With the layers that training changed."""
    how = {"epochs": 1, "val_share": 0.3, "batch_size": 8, "learning_rate": 1e-3}
    finetune_head(saved(cache), None, cache, "heads/tuned", FinetuneSettings("second", **how))
    path = Path("heads/tuned/model.json")
    write_record(path, with_start(read_record(path, ModelRecord), "private/w.pth"))
    expected = probabilities(Head.load("heads/tuned"), PATHS)
    for file in ("tuned.onnx", "tuned.pt2", "tuned.zip"):
        assert export_head("tuned", file).difference < 1e-3
    with zipfile.ZipFile("tuned.zip") as archive:
        assert b"private" not in archive.read("model.json")
    Path("heads").rename("moved")
    again = Head.load(unpack_head("tuned.zip", "elsewhere/tuned"))
    np.testing.assert_array_equal(probabilities(again, PATHS), expected)


@pytest.mark.parametrize(
    ("name", "public"),
    [
        ("resnet18", "resnet18"),
        ("IMAGENET1K_V1", "IMAGENET1K_V1"),
        ("random:3", "random:3"),
        ("timm:vit_tiny_patch16_224.augreg", "timm:vit_tiny_patch16_224.augreg"),
        ("hf-hub:org/name@v1", "hf-hub:org/name@v1"),
        ("hf:org/name", "hf:org/name"),
        ("open_clip:RN50/openai", "open_clip:RN50/openai"),
        ("open_clip:hf-hub:org/name", "open_clip:hf-hub:org/name"),
        ("/home/me/w.pth", "w.pth"),
        ("../private/w.pth", "w.pth"),
        ("./w.pth", "w.pth"),
        ("a:b/w.pth", "w.pth"),
        ("heads/tuned", "tuned"),
        ("heads/tuned/", "tuned"),
        ("local-dir:models/secret", "local-dir:secret"),
        ("local-dir:/home/me/secret", "local-dir:secret"),
        ("open_clip:local-dir:models/secret", "open_clip:local-dir:secret"),
        ("hf:../models/secret", "hf:secret"),
        ("hf:here/secret", "hf:secret"),
    ],
)
def test_names_leave_without_folders(name, public):
    Path("here/secret").mkdir(parents=True)
    assert public_name(name) == public


def test_files_and_cards_have_no_folder_of_this_machine(little, data):
    torch.manual_seed(0)
    Path("private").mkdir()
    torch.save(find_model(little).build((32, 32)).state_dict(), "private/w.pth")
    store = Cache("cache")
    base = FrozenBase(little, ["first_relu"], weights="private/w.pth", pool="avg")
    extract_features(ImageSet.from_folder(data), base, store)
    saved(store)
    for file in ("out/pets.onnx", "out/pets.zip"):
        export_head("pets", file, card=True)
        assert b"private" not in Path(file).read_bytes()
        card = Path("out/README.md").read_text()
        assert "| weights | w.pth |" in card
        assert "private" not in card

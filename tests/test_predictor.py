"""A head with its base as one object: images in any form. About 10 s in the first tier."""

import io
import pickle
import sys
import threading
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import crops
from PIL import Image

from bottleneck import (
    Cache,
    FrozenBase,
    Head,
    ImageSet,
    Predictor,
    extract_features,
    fit_head,
    load_features,
    predict_images,
    select_layers,
)
from bottleneck.bases import find_model
from bottleneck.errors import (
    BadImageError,
    PathMissingError,
    UnknownNameError,
    UsageError,
    WeightsError,
    WrongTypeError,
)
from bottleneck.extract.lanes import find_lanes
from bottleneck.heads import fit_rows
from bottleneck.images import RejectedImage
from bottleneck.predict.engine import Engine


@pytest.fixture
def paths(little, make_images) -> list[str]:
    """Images of two classes, whose features are in a cache, with the head ``heads/h``."""
    images = ImageSet.from_folder(make_images(cat=20, dog=20))
    extract_features(images, FrozenBase(little, "flat", weights="random:0"), Cache("cache"))
    fit_head(load_features(Cache("cache")), "softmax").save("heads/h")
    return [item.path for item in images.items]


def test_all_forms_of_an_image_have_the_same_answer(paths):
    predictor = Predictor("heads/h")
    path = paths[0]
    pixels = np.asarray(Image.open(path))
    with Path(path).open("rb") as file:
        forms = [path, Path(path), Path(path).read_bytes(), file, Image.open(path), pixels]
        forms += [memoryview(Path(path).read_bytes()), io.BytesIO(Path(path).read_bytes())]
        found = predictor.predict_proba(forms)
    assert found.shape == (8, 2)
    assert (found == found[0]).all()
    assert np.allclose(found.sum(axis=1), 1)
    one = Predictor("heads/h").predict_proba(path)
    assert np.allclose(one, found[:1], atol=1e-4)
    assert np.allclose(predictor.predict_proba(pixels), one, atol=1e-4)
    several = np.stack([pixels, pixels])
    assert predictor.predict_proba(several).shape == (2, 2)
    assert list(predictor.predict(several)) == list(predictor.predict(path)) * 2
    assert predictor.classes == ("cat", "dog")
    for kind in (str, object):
        assert predictor.predict_proba(np.array([path, path], dtype=kind)).shape == (2, 2)


def test_many_have_the_features_of_the_cache(paths):
    """However they are divided into batches, and also from a generator, which is not read twice."""
    predictor, head = Predictor("heads/h"), Head.load("heads/h")
    expected = {
        each.path: each for each in predict_images(head, ImageSet.from_paths(paths), cache="cache")
    }
    many = [paths[number % len(paths)] for number in range(150)]
    found = list(predictor.predictions(path for path in many))
    assert [each.path for each in found] == many
    assert all(each.label == expected[each.path].label for each in found)
    shares = np.array([list(each.probabilities.values()) for each in found])
    known = [list(expected[path].probabilities.values()) for path in many]
    assert np.allclose(shares, known, atol=1e-6)
    assert found[0].novelty == pytest.approx(expected[many[0]].novelty, abs=0.1)
    small = Predictor("heads/h", batch_size=2)
    assert np.allclose(small.predict_proba(many), known, atol=1e-4)


@pytest.fixture
def three_cores(monkeypatch):
    threads = torch.get_num_threads()
    monkeypatch.setattr("joblib.cpu_count", lambda: 3)
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("three_cores")
def test_a_few_images_are_decoded_beside_each_other(paths, monkeypatch):
    """As many as there are cores; the answers, in order, are those of one after another."""
    Path("cut.png").write_bytes(Path(paths[0]).read_bytes()[:200])
    given = [*paths[:3], "cut.png", *paths[3:5]]
    monkeypatch.setattr(Engine, "decoders", 1)
    expected = list(Predictor("heads/h").predictions(given))
    monkeypatch.setattr(Engine, "decoders", 3)
    pixels, meeting, threads = Engine.pixels, threading.Barrier(3), []

    def together(self, image):
        threads.append((threading.get_ident(), torch.get_num_threads()))
        meeting.wait(60)  # until three images are being decoded
        return pixels(self, image)

    def computed(self, *arguments, **options):
        assert torch.get_num_threads() == 3
        return predictions(self, *arguments, **options)

    predictions = Engine.predictions
    monkeypatch.setattr(Engine, "pixels", together)
    monkeypatch.setattr(Engine, "predictions", computed)
    found = list(Predictor("heads/h").predictions(given))
    assert found == expected
    assert [isinstance(each, RejectedImage) for each in found].index(True) == 3
    assert [each.path for each in found] == given
    assert len(set(threads)) == 3
    assert {number for _, number in threads} == {1}
    threads.clear()
    meeting.abort()
    monkeypatch.setattr(meeting, "wait", lambda _: None)
    (one,) = Predictor("heads/h").predictions(paths[0])
    assert one.path == paths[0]
    assert threads == [(threading.get_ident(), 3)]  # one image needs no other thread


@pytest.mark.usefixtures("three_cores")
@pytest.mark.parametrize("count", [1, 2, 5, 6, 20])
def test_images_are_decoded_ahead_of_the_workers_of_a_gpu(paths, monkeypatch, count):
    """By as many threads as there are cores; the batch size is not tried for a single image."""
    expected = Predictor("heads/h", batch_size=2).predict_proba(paths[:count])
    tried, begun = [], set()

    def lanes(base, images, batch_size):
        if images > 1:
            tried.append(batch_size)
        found = find_lanes(base, images, 2)
        return replace(found, batch_size=2, decode_ahead=True, loaders=3)

    def seen(self, image):
        begun.add(threading.get_ident())
        return pixels(self, image)

    pixels = Engine.pixels
    monkeypatch.setattr("bottleneck.predict.engine.find_lanes", lanes)
    monkeypatch.setattr(Engine, "pixels", seen)
    found = Predictor("heads/h", batch_size="auto").predict_proba(iter(paths[:count]))
    assert np.array_equal(found, expected)
    assert bool(tried) == (count >= 3)
    assert len(begun) <= 3


def test_a_generator_may_use_its_array_and_file_again(paths):
    """What is given is taken over before the next one is asked for."""
    images = [np.asarray(Image.open(path)) for path in paths]
    predictor = Predictor("heads/h")

    def frames():
        frame = np.empty_like(images[0])
        for number in range(100):
            frame[:] = images[number % 40]
            yield frame
        frame[:] = 0

    def files():
        for number in range(100):
            with Path(paths[number % 40]).open("rb") as file:
                yield file

    def opened():
        for number in range(100):
            with Image.open(paths[number % 40]) as image:
                yield image

    expected = predictor.predict_proba([paths[number % 40] for number in range(100)])
    for given in (frames, files, opened):
        assert np.allclose(predictor.predict_proba(given()), expected, atol=1e-6), given


def test_an_image_that_cannot_be_used_is_told(paths):
    Path("cut.png").write_bytes(Path(paths[0]).read_bytes()[:200])
    Path("raw.nef").write_bytes(Path(paths[0]).read_bytes())
    predictor = Predictor("heads/h", max_bytes=10**6, max_pixels=5000)
    large = np.zeros((100, 100, 3), np.uint8)
    given = ["cut.png", paths[0], "no.png", ".", b"", b"no image", "raw.nef", "a\0b"]
    given += [bytes(10**6 + 1), Image.fromarray(large), large[:0]]
    found = list(predictor.predictions(given))
    assert [isinstance(each, RejectedImage) for each in found] == [True, False] + [True] * 9
    reasons = {each.path: each.reason for each in found if isinstance(each, RejectedImage)}
    assert reasons["no.png"] == "No such file or directory"
    assert "the file is empty" in reasons["images[4]"]
    assert "more bytes than the limit of 1,000,000" in reasons["images[8]"]
    assert "more than the limit of 5,000" in reasons["images[9]"]
    assert "no pixels" in reasons["images[10]"]
    with pytest.raises(BadImageError, match=r"'no.png' cannot be used .* leave it out"):
        predictor.predict([paths[0], "no.png"])
    for wrong in (5, [None], large[..., :2], large.astype(float), io.StringIO("text")):
        with pytest.raises(WrongTypeError, match=r"^images\[0\].* is not an image; expected"):
            predictor.predict(wrong)
    with Path(paths[0]).open("rb") as file:
        pass
    with pytest.raises(BadImageError, match=r"'images\[0\]' cannot be used \(read of closed file"):
        predictor.predict(file)
    assert predictor.predict([]).shape == (0,)
    assert predictor.predict_proba([]).shape == (0, 2)


@pytest.mark.usefixtures("paths")
def test_pillow_images_of_all_modes():
    """With the pixels that their files have."""
    predictor = Predictor("heads/h")
    (colours,) = crops(1, size=60)
    for mode in ("L", "P", "RGBA", "LA", "CMYK", "1", "I;16"):
        image = colours.convert("L").convert(mode) if mode == "I;16" else colours.convert(mode)
        suffix = "jpg" if mode == "CMYK" else "png"
        image.save(f"x.{suffix}")
        with Image.open(f"x.{suffix}") as opened:
            found = predictor.predict_proba([opened, f"x.{suffix}"])
        assert np.allclose(found[0], found[1], atol=1e-6), mode


def proba(predictor: Predictor, path: str) -> np.ndarray:
    return predictor.predict_proba(path)


def test_it_is_sent_to_another_process_by_its_path(paths, processes, site):
    predictor = Predictor("heads/h", batch_size=3)
    content = pickle.dumps(predictor)
    assert len(content) < 2000
    assert repr(pickle.loads(content)).endswith("heads/h')")
    path, begin = (0, str(site)), sys.path.insert
    with ProcessPoolExecutor(1, processes, initializer=begin, initargs=path) as pool:
        found = pool.submit(proba, predictor, str(Path(paths[0]).absolute())).result()
    assert np.allclose(found, predictor.predict_proba(paths[0]), atol=1e-6)


def test_joined_layers_abstaining_and_several_classes(little, make_images):
    images = ImageSet.from_folder(make_images(cat=20, dog=20))
    layers = ["first_relu", "flat"]
    extract_features(images, FrozenBase(little, layers, weights="random:0", pool="avg"), "cache")
    joined = load_features("cache", select_layers("cache", layers=layers, join=True)[-1])
    fit_head(joined, "logreg").save("heads/joined")
    found = Predictor("heads/joined").predict_proba([images.items[0].path])
    head = Head.load("heads/joined")
    (expected,) = predict_images(head, [images.items[0].path], cache="cache")
    assert np.allclose(found[0], list(expected.probabilities.values()), atol=1e-4)
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    assert Predictor("heads/joined", abstain=90.0).predict(noise).tolist() == [None]
    assert None not in Predictor("heads/joined").predict(noise)
    bare = fit_rows(joined.X, joined.labels, "ridge", source=joined.provenance)
    bare.save("heads/bare")
    with pytest.raises(UsageError, match="does not know how far images are"):
        Predictor("heads/bare", abstain=99)
    with pytest.raises(UnknownNameError, match="no head 'non'"):
        Predictor("heads/non")
    Path("pets.zip").touch()
    with pytest.raises(UnknownNameError, match="'pets.zip' is a file, .* 'unzip pets.zip -d pets'"):
        Predictor("pets.zip")
    with pytest.raises(WrongTypeError, match="`head` must be"):
        Predictor(head)


def test_weights_that_have_moved_are_given(little, make_images, bottleneck):
    """To `Predictor` and to `serve`; others are refused."""
    images = ImageSet.from_folder(make_images(cat=20, dog=20))
    for seed in (0, 1):
        torch.manual_seed(seed)
        torch.save(find_model(little).build((32, 32)).state_dict(), f"{seed}.pth")
    extract_features(images, FrozenBase(little, "flat", weights="0.pth"), Cache("cache"))
    fit_head(load_features(Cache("cache")), "softmax").save("heads/h")
    paths = [item.path for item in images.items[:3]]
    expected = Predictor("heads/h").predict_proba(paths)
    Path("0.pth").rename("moved.pth")
    with pytest.raises(PathMissingError, match=r"no weights file '0\.pth'"):
        Predictor("heads/h")
    assert np.array_equal(Predictor("heads/h", weights="moved.pth").predict_proba(paths), expected)
    with pytest.raises(WeightsError, match="weights"):
        Predictor("heads/h", weights="1.pth")
    for given, told in ((), "no weights file '0.pth'"), (("--weights", "1.pth"), "weights"):
        refused = bottleneck("serve", "--port", 0, "h", *given)
        assert refused.code in {1, 2}
        assert told in refused.err
        assert refused.err.count("error: ") == 1


@pytest.mark.ci
def test_weights_of_imagenet_agree_with_the_cache(faces_cache):
    features = load_features(faces_cache)
    fit_head(features, "softmax").save("heads/faces")
    test = features.split("test")
    found = Predictor("heads/faces").predict_proba(list(test.paths))
    head = Head.load("heads/faces")
    assert np.abs(found - head.predict_proba(test.X)).max() < 1e-3
    single = [Predictor("heads/faces").predict_proba(path)[0] for path in test.paths[:3]]
    assert np.abs(single - found[:3]).max() < 1e-2

"""Exported files served without PyTorch: the same answers as `Predictor`. About 40 s.

Most of it is the exporter's. The server runs in a process that can import nothing but what the
extra ``serve-onnx`` lists.
"""

import hashlib
import io
import json
import signal
import socket
import subprocess
import sys
import threading
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import distribution, packages_distributions
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import crops, photograph
from onnx import helper, parser
from packaging.requirements import Requirement
from PIL import Image
from served import Running, answer_of, form, until
from sites import installed

from bottleneck import (
    FrozenBase,
    ImageSet,
    Predictor,
    ServeSettings,
    export_head,
    extract_features,
    fit_head,
    load_features,
)
from bottleneck.bases import Transform
from bottleneck.errors import BadImageError
from bottleneck.extract import preprocess
from bottleneck.records import SHIPPED
from bottleneck.serve import exported
from bottleneck.serve.exported import Files, preprocessed

PROJECT = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
CLASSES = ("cat", "cow", "dog")


def encoded(image: Image.Image, kind: str = "png") -> bytes:
    content = io.BytesIO()
    image.save(content, kind)
    return content.getvalue()


def coloured(image: Image.Image, channel: int) -> Image.Image:
    """An image whose class is its strongest channel."""
    values = np.asarray(image) // 3
    values[..., channel] *= 3
    return Image.fromarray(values)


@pytest.fixture(scope="module")
def images() -> list[bytes]:
    """Of several sizes and kinds, some larger than the base's input and some smaller."""
    wide = Image.fromarray(photograph("chelsea"))
    sized = [wide.resize(size) for size in ((451, 300), (40, 97), (300, 31), (20, 20))]
    every = [coloured(each, number % 3) for number, each in enumerate(crops(8, seed=7) + sized)]
    return [*map(encoded, every), encoded(coloured(wide, 1), "jpeg")]


@pytest.fixture(scope="module")
def files(made_once, site) -> Path:
    """A folder with the head ``h``, and with ``pixels.onnx`` and ``whole.onnx`` of it."""

    def make(folder: Path) -> None:
        with installed(site), pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            for channel, label in enumerate(CLASSES):
                Path("data", label).mkdir(parents=True)
                for number, image in enumerate(crops(16, seed=channel)):
                    coloured(image, channel).save(f"data/{label}/{number}.png")
            base = FrozenBase("little", weights="random:0", precision="fp32")
            extract_features(ImageSet.from_folder("data"), base, "cache")
            fit_head(load_features("cache"), "softmax").save("heads/h")
            for name, whole in (("pixels", False), ("whole", True)):
                export_head("h", f"{name}.onnx", with_preprocessing=whole)

    return made_once("exported", make)


@pytest.fixture(scope="module")
def expected(files, site, images) -> np.ndarray:
    with installed(site):
        found = Predictor(files / "heads" / "h").predict_proba(images)
    assert np.ptp(found, axis=0).min() > 0.3  # other answers would be seen
    return found


def shares(predictions) -> np.ndarray:
    return np.array([list(each["probabilities"].values()) for each in predictions])


def installed_by(names) -> set[str]:
    """Distributions that an installer puts in place for requirements."""
    found, waiting = set(), [Requirement(each) for each in names]
    while waiting:
        name = waiting.pop().name.lower().replace("_", "-")
        if name not in found:
            found.add(name)
            needed = map(Requirement, distribution(name).requires or ())
            waiting += [
                each for each in needed if not each.marker or each.marker.evaluate({"extra": ""})
            ]
    return found


ALONE = """
import json, sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in missing:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

missing = set(json.loads(sys.argv.pop(1)))
sys.meta_path.insert(0, Missing())
from bottleneck.cli import main
main(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def lean() -> list[str]:
    """A command line where only the extra's packages are installed."""
    known = {*installed_by(EXTRAS["serve-onnx"]), "bottleneck-features"}
    missing = [
        module
        for module, names in packages_distributions().items()
        if not {name.lower().replace("_", "-") for name in names} & known
    ]
    assert {"torch", "torchvision", "timm", "h5py", "scipy", "sklearn", "onnx"} <= set(missing)
    return [sys.executable, "-c", ALONE, json.dumps(missing)]


@pytest.fixture
def alone(lean, tmp_path):
    """Start a server of files there."""
    started = []

    def start(*arguments: object) -> Running:
        told = tmp_path / f"told-{len(started)}"
        with told.open("w") as out:
            process = subprocess.Popen(
                [*lean, "serve", "--port", "0", "--json", *map(str, arguments)],
                stdout=out,
                stderr=out,
            )
        started.append(process)
        until(lambda: "}" in told.read_text() or process.poll() is not None)
        assert process.poll() is None, told.read_text()
        text = told.read_text()
        facts = json.loads(text[text.index("{") : text.rindex("}") + 1])
        return Running(process, int(facts["address"].rpartition(":")[2]), told)

    yield start
    for process in started:
        process.terminate()
        assert process.wait(60) == 128 + signal.SIGTERM
    assert all("Traceback" not in told.read_text() for told in tmp_path.glob("told-*"))


def test_without_torch_a_server_gives_the_answers_of_predictor(alone, files, images, expected):
    server = alone("--onnx", files / "pixels.onnx", "--onnx", files / "whole.onnx")
    answer = server.predict(*images[:8], b"no image", *images[8:])
    assert answer.status == 200
    assert answer.content["predictions"][16]["error"].startswith("not an image in a kn")
    found = [each for each in answer.content["predictions"] if "error" not in each]
    assert [each["head"] for each in found] == ["pixels", "whole"] * len(images)
    np.testing.assert_allclose(shares(found[::2]), expected, atol=1e-3)
    np.testing.assert_allclose(shares(found[1::2]), expected, atol=1e-2)
    labels = [CLASSES[row.argmax()] for row in expected]
    assert [each["class"] for each in found[::2]] == labels
    assert {each["novelty"] for each in found} == {None}
    for name, told in zip(("pixels", "whole"), server.ask("/info").content["heads"], strict=True):
        content = (files / f"{name}.onnx").read_bytes()
        assert told["head"] == name
        assert told["digest"] == hashlib.sha256(content).hexdigest()
        assert told["classes"] == list(CLASSES)
        assert told["record"]["head"] == "h"
        assert told["record"]["input"] == {"pixels": "pixels", "whole": "images"}[name]
        assert str(files) not in json.dumps(told)
    (one,) = server.predict(images[0], query="?head=whole&top=1").content["predictions"]
    assert one["probabilities"] == {labels[0]: pytest.approx(expected[0].max(), abs=1e-2)}
    for path in ("/", "/docs", "/openapi.json", "/metrics"):
        assert server.ask(path).status == 200


@pytest.mark.ci
def test_faults_of_clients_and_sigterm_change_no_answer(alone, files, images, expected):
    """Killed clients and corrupt files among good ones; then the end while many wait."""
    server = alone("--onnx", files / "pixels.onnx", "--timeout", 600)
    head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"

    def killed(number: int) -> None:
        data = head % len(images[0]) + images[0]
        client = socket.create_connection(("127.0.0.1", server.port))
        client.sendall(data[: len(data) // (1 + number % 2)])  # whole, or a half
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, bytes([1, 0, 0, 0, 0, 0, 0, 0]))
        client.close()

    with ThreadPoolExecutor(8) as pool:
        ended = [pool.submit(killed, number) for number in range(30)]
        found = list(pool.map(server.predict, [*images, *(data[:100] for data in images)]))
        for each in ended:
            each.result()
    good, bad = found[: len(images)], found[len(images) :]
    assert [each.status for each in found] == [200] * len(images) + [422] * len(images)
    np.testing.assert_allclose(answered(good), expected, atol=1e-3)
    assert all(each.content["predictions"][0]["error"] for each in bad)
    large = coloured(Image.fromarray(photograph("chelsea")).resize((1500, 1500)), 1)
    kind, body = form(*[(f"{number}.png", encoded(large)) for number in range(4)])
    one = answered([server.ask("/predict", body, content_type=kind)])
    clients = [server.connect() for _ in range(6)]
    for client in clients:
        client.request("POST", "/predict", body, {"content-type": kind})
    until(lambda: server.figure("bottleneck_waiting_images") > 8)
    server.process.terminate()
    answers = [answer_of(client) for client in clients]
    assert [each.status for each in answers] == [200] * 6
    for each in answers:
        np.testing.assert_allclose(answered([each]), one, atol=1e-5)
    assert server.process.wait(60) == 128 + signal.SIGTERM
    for client in clients:
        client.close()


def answered(answers) -> np.ndarray:
    """The probabilities in answers of a server, one row for each image."""
    return np.concatenate([shares(each.content["predictions"]) for each in answers])


def test_other_commands_say_there_what_is_missing(lean):
    ended = subprocess.run([*lean, "predict", "x"], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert " is not installed, which all but 'serve --onnx' may need; install " in ended.stderr
    assert ended.stderr.count("\n") <= 2


def test_the_extra_has_the_versions_of_the_package():
    others = {*PROJECT["dependencies"], *EXTRAS["serve"], *EXTRAS["onnx"]}
    assert set(EXTRAS["serve-onnx"]) < others
    assert set(EXTRAS["serve"]) < set(EXTRAS["serve-onnx"])


WAYS = {
    "shorter side": {"resize": (256, 256), "crop": (224, 224)},
    "odd crop of a box": {"resize": (90, 120), "crop": (77, 99)},
    "squash": {"resize": (100, 100), "crop": (99, 97), "squash": True},
    "padded": {"resize": (60, 60), "crop": (64, 67)},
    "whole": {"resize": (96, 96), "crop": (96, 96), "keep_aspect": True, "multiple": 16},
    "reduced": {"resize": (60, 60), "crop": (57, 56), "reduced_decode": True},
}


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize("way", WAYS)
def test_preprocessing_without_torch_is_that_of_the_base(way, interpolation):
    """The same values; without `exact_resize` few differ, by one or a few of 255."""
    transform = Transform(
        interpolation=interpolation, mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3), **WAYS[way]
    )
    fast = Transform(**{**vars(transform), "exact_resize": False})
    for size in ((451, 300), (300, 451), (70, 50), (97, 131), (260, 33)):
        data = encoded(Image.fromarray(photograph("chelsea")).resize(size), "jpeg")
        given = preprocessed(data, transform, whole=False)
        exact, near = (each.normalise(preprocess(each, data)).numpy() for each in (transform, fast))
        np.testing.assert_allclose(given, exact, atol=1e-6)
        levels = np.abs(given - near) * np.array(transform.std)[:, None, None] * 255
        assert levels.max() < 4.01
        assert levels.mean() < 0.25
    whole = preprocessed(data, transform, whole=True)
    assert (whole.dtype, whole.shape) == (np.uint8, (33, 260, 3))
    tall = {**vars(transform), "keep_aspect": True, "squash": False}
    with pytest.raises(BadImageError, match="too thin to keep its proportions"):
        preprocessed(encoded(Image.new("RGB", (2, 200))), Transform(**tall), whole=True)


def changed(file: Path, name: str, **changes: object) -> Path:
    """A copy of a file whose record is changed."""
    model = onnx.load(file)
    record = json.loads(next(each.value for each in model.metadata_props if each.key == SHIPPED))
    helper.set_model_props(model, {SHIPPED: json.dumps({**record, **changes})})
    onnx.save(model, name)
    return Path(name)


def test_images_that_wait_take_no_more_memory_than_there_is_room():
    """One by one, but for an image that is larger than all of it; and nobody waits for ever."""
    room = exported._Room(100, 0.2)
    image = np.zeros(80, np.uint8)
    room.take(image)
    started = time.monotonic()
    room.take(late := np.zeros(30, np.uint8))
    assert time.monotonic() - started >= 0.2
    del late
    patient = exported._Room(100, 60)
    patient.take(image)
    taken = threading.Thread(target=lambda: patient.take(np.zeros(200, np.uint8)))
    taken.start()
    taken.join(0.2)
    assert taken.is_alive()
    del image
    taken.join(30)
    assert not taken.is_alive()
    assert patient._taken == room._taken == 0


def test_several_classes_are_those_above_their_thresholds(files, images):
    thresholds = {"both": [1e-9] * 3, "none": [0.999999] * 3}
    several = {
        name: changed(files / "pixels.onnx", f"{name}.onnx", multilabel=True, thresholds=each)
        for name, each in thresholds.items()
    }
    served = Files(several, ServeSettings())
    (answer,) = served.answers([served.ready(images[0])], few=False)
    assert (answer["both"].label, answer["none"].label) == ("cat;cow;dog", ";")
    assert [each["several_classes"] for each in served.facts()] == [True, True]


def test_bad_input_is_one_sentence(bottleneck, files, monkeypatch):
    other = parser.parse_model(
        '<ir_version: 8, opset_import: ["": 18]> g (float[n] x) => (float[n] y) { y = Abs (x) }'
    )
    onnx.save(other, "other.onnx")
    Path("text.onnx").write_text("no model")
    Path("again").mkdir()
    again = changed(files / "pixels.onnx", "again/pixels.onnx")
    changed(files / "pixels.onnx", "newer.onnx", schema=99)
    pixels = str(files / "pixels.onnx")
    cases = [
        (("none.onnx",), 2, "'none.onnx' cannot be read (No such file or directory); give an"),
        (("again",), 2, "'again' cannot be read ("),
        (("text.onnx",), 1, "'text.onnx' cannot be loaded by ONNX Runtime ("),
        (("other.onnx",), 1, "'other.onnx' is an .onnx file that 'bottleneck export' did not wri"),
        (("newer.onnx",), 1, "'newer.onnx' has a record that cannot be read ("),
        ((pixels, "--onnx", again), 2, "two files with one name cannot be served"),
        ((pixels, "h"), 2, "--onnx and HEAD exclude each other; give one"),
        ((pixels, "--abstain", 90), 2, "--abstain is for heads, which have their base and know"),
        ((pixels, "--device", "cuda"), 2, "--device is for heads"),
        ((pixels, "--weights", "DEFAULT"), 2, "--weights is for heads, which have their base and"),
    ]
    for arguments, code, told in cases:
        ended = bottleneck("serve", "--port", 0, "--onnx", *arguments)
        assert (ended.code, ended.out) == (code, "")
        assert told in ended.err
        assert ended.err.count("error: ") == 1
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    ended = bottleneck("serve", "--port", 0, "--onnx", pixels)
    assert ended.code == 1
    assert "an .onnx file needs onnxruntime, which is not installed; run 'pip install" in ended.err

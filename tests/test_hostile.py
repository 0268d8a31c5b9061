"""Hostile files: every reader of the program x every kind of damage x every field of its file.

Whatever a file holds, reading it either works or is refused in one sentence, and never hangs. The
whole table is in the second tier (``-m ci``), some ten minutes; the first has one case in a
hundred, some 30 s.
"""

import contextlib
import importlib
import io
import json
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from conftest import crops, source_record
from damage import (
    Cases,
    csv_fields,
    hdf5_fields,
    in_its_place,
    json_fields,
    line_fields,
    log_fields,
    metadata_fields,
    npy_fields,
    npz_fields,
    point_fields,
    policy_fields,
    raw,
    safetensors_fields,
    toml_fields,
    torch_fields,
    weights_fields,
)
from safetensors.numpy import save_file
from test_plugins import MODULE
from test_records import KINDS, content_of, reseal
from xxhash import xxh3_64

from bottleneck import Cache, ExperimentLog, Head, ImageSet, load_features
from bottleneck.augment import find_policy
from bottleneck.bases import find_model, model_names, write_finetuned, zoo
from bottleneck.bases.finetuned import read_finetuned, seen_digests
from bottleneck.bases.weights import load_weights
from bottleneck.cache import Bank, compact_bank, find_prunable, verify_cache
from bottleneck.cli import main
from bottleneck.errors import BottleneckError, DataError, UsageError, WeightsError
from bottleneck.exchange import export_features, import_array, import_features
from bottleneck.experiments import default_metric, rank
from bottleneck.finetune.checkpoints import Checkpoint
from bottleneck.heads import find_head, fit_rows
from bottleneck.heads.training import State
from bottleneck.images import decode, read_size
from bottleneck.records import BankRecord, ModelFacts

DIGEST = "ab" * 32
SECONDS = 20.0
"""Longer than any case takes on a busy machine; a reader that is slower hangs."""
LONGEST = 1700
"""Letters of a sentence."""
SAMPLE = 97
"""Every so many cases are in the first tier."""


@dataclass(frozen=True)
class Reader:
    """A kind of file: how a good one is written, read, and forged field by field."""

    make: Callable[[], Path]
    read: Callable[[Path], object]
    forge: Callable[[Path], Cases] = lambda _: iter(())
    pipe: bool = True
    """Whether it can be a pipe; Python itself would wait for that of a package's metadata."""


@pytest.fixture(autouse=True)
def unsynced(monkeypatch):
    """Let the system choose when files reach the disk, which only a power cut would show."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


class Hung(BaseException):
    """A reader that does not end."""


# Readers


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """A folder with one of everything, not to be changed."""
    folder = tmp_path_factory.mktemp("world")
    with contextlib.chdir(folder):
        table = ["path,label,split,weight"]
        for number, image in enumerate(crops(12, size=32)):
            image.save(f"{number:02d}.png")
            split = ("train", "train", "test")[number // 2 % 3]
            table.append(f"{number:02d}.png,{'ab'[number % 2]},{split},{1 + number % 2}")
        Path("table.csv").write_text("\n".join([*table, ""]))
        images = ImageSet.from_manifest("table.csv")
        KINDS["bank"].make()
        rows = np.random.default_rng(0).normal(size=(12, 7)).astype(np.float32)
        np.save("rows.npy", rows)
        import_array(Cache("imported"), "rows.npy", "table.csv", model="m")
        features = load_features(Cache("imported"))
        for clf in ("softmax", "mlp", "knn"):
            given = {"epochs": 2} if clf == "mlp" else {}
            fit_rows(
                rows,
                np.array([item.label for item in images.items]),
                clf,
                source=features.selection,
                **given,
            ).save(f"heads/{clf}")
        export_features(Cache("imported"), features.selection, "out.h5")
        export_features(Cache("imported"), features.selection, "out.npz")
        _write_parts(images, rows)
        _write_models()
        log = ExperimentLog("log.sqlite")
        settings = {
            "clf": "svm",
            "layer": "x",
            "cv": 2,
            "repeats": 1,
            "seed": 0,
            "more": {"a": [1]},
        }
        for C in (0.1, 1.0):
            log.append(settings | {"C": C}, FOLDS, 1.5, {"python": "3"})
        Path("policy.yaml").write_text(
            "- RandomHorizontalFlip: {p: 0.5}\n- ColorJitter: {hue: 0.1}\n"
        )
        Path("bottleneck.toml").write_text(
            "[default]\nseed = 3\n\n[cache.ls]\ncache = 'imported'\n"
        )
    return folder


def _write_parts(images: ImageSet, rows: np.ndarray) -> None:
    """Write a plain and a compressed part of two layers."""
    for compress in ("none", "zstd"):
        bank = Cache(compress).bank("m", DIGEST)
        bank.describe(BankRecord.imported(DIGEST, "m", {"map": [7], "vector": [7]}))
        with bank.writer("float16", compress=compress) as writer:
            writer.append(
                [item.digest for item in images.items], {"map": rows[:, :, None], "vector": rows}
            )
        bank.rebuild_view_file()


def _write_models() -> None:
    model = find_model("squeezenet1_1")
    state = {"features.0.weight": torch.ones(2, 3), "features.0.bias": torch.zeros(2)}
    torch.save(state, "net.pth")
    save_file({name: each.numpy() for name, each in state.items()}, "net.safetensors")
    record = _model_record()
    facts = {each: getattr(record, each) for each in ModelFacts.__dataclass_fields__}
    write_finetuned(
        "heads/tuned",
        model,
        state,
        transform=model.transform,
        facts=ModelFacts(**facts),
        seen=[DIGEST],
    )
    head = Head.load("heads/softmax")
    replace(head, source=source_record(model=".")).save("heads/tuned")


def _model_record() -> Any:
    KINDS["model"].make()
    found = read_finetuned("heads/tuned")
    shutil.rmtree("heads/tuned")
    return found


X = np.random.default_rng(1).normal(size=(5, 7)).astype(np.float32)
FOLDS = [
    {"repeat": 0, "fold": fold, "images": 3, "accuracy": 0.5 + fold / 10, "log_loss": 1.0}
    for fold in (0, 1)
]


def training() -> Any:
    """As much of a training as its checkpoint needs."""
    layer = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9)
    layer(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    precision = SimpleNamespace(state_dict=dict, load_state_dict=lambda _: None)
    return SimpleNamespace(
        optimizer=optimizer,
        network=SimpleNamespace(load_tuned=layer.load_state_dict),
        fabric=SimpleNamespace(strategy=SimpleNamespace(precision=precision)),
        weights=layer.state_dict,
        settings=SimpleNamespace(epochs=1),
        plan=lambda _: None,
        choice=SimpleNamespace(state=dict, restore=dict, offer=lambda _: None),
        scores=lambda: X,
    )


def make_state() -> Path:
    made = training()
    best = {name: each.clone() for name, each in made.weights().items()}
    epoch = {"epoch": 1, "loss": 0.5, "val_loss": 0.5}
    Checkpoint(Path("run")).save(made, State({"val_loss": 1.0}, best, [epoch], 1))
    return Path("run/checkpoint/state.safetensors")


def read_state(_: Path) -> object:
    return Checkpoint(Path("run")).load(training())


def in_world(name: str) -> Callable[[], Path]:
    return lambda: Path(name)


def only(pattern: str) -> Callable[[], Path]:
    def find() -> Path:
        (path,) = Path().glob(pattern)
        return path

    return find


def predict_with(name: str) -> Callable[[Path], object]:
    def read(_: Path) -> object:
        assert np.isfinite(Head.load(f"heads/{name}").predict_proba(X)).all()
        return find_head("heads", name)[1].predict(X)

    return read


def read_part(cache: str) -> Callable[[Path], object]:
    """Read, list, verify, compact and prune a bank."""

    def read(_: Path) -> object:
        bank = Cache(cache).bank("m", DIGEST)
        digests = [item.digest for item in ImageSet.from_manifest("table.csv").items]
        found = []
        for use in (
            lambda: Bank(bank.path).read("vector", digests),
            lambda: Bank(bank.path).read("map", digests[:2]),
            lambda: list(bank.stream("vector", digests, memory=2**10)),
            lambda: find_prunable(Cache(cache), layer="vector", imported=True),
            lambda: Bank(bank.path).rebuild_view_file(),
            lambda: compact_bank(Bank(bank.path)),
        ):
            try:
                use()
            except BottleneckError as error:
                found.append(error)
        verify_cache(Cache(cache))
        if found:
            raise found[0]
        return None

    return read


def rename_part(path: Path, number: int = 1) -> None:
    """Give a part the name that belongs to its bytes."""
    path.rename(path.with_name(f"{number:06d}-{xxh3_64(path.read_bytes()).hexdigest()[:8]}.h5"))


def part_fields(path: Path) -> Cases:
    yield from hdf5_fields(path, rename_part)
    for name, content in raw(path.read_bytes()):

        def apply(path: Path, content: bytes = content) -> None:
            path.write_bytes(content)
            rename_part(path)

        yield f"renamed {name}", apply


def fresh() -> Cache:
    return Cache(f"others/{time.monotonic_ns()}")


def run_of(*arguments: str) -> Callable[[Path], object]:
    """Run a command, whose error is one line."""

    def read(_: Path) -> object:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                main(list(arguments))
            except SystemExit as stopped:
                code = stopped.code or 0
        assert code in {0, 1, 2}, code
        last = err.getvalue().rstrip("\n").rpartition("\n")[2]
        assert code == 0 or last.startswith("error: "), err.getvalue()
        if code:
            raise BottleneckError(err.getvalue().rstrip("\n"))
        return None

    return read


def read_log(path: Path) -> object:
    log = ExperimentLog(path)
    found = log.experiments()
    rank(found, default_metric(found))
    log.find({"clf": "svm"})
    log.append({"clf": "new"}, FOLDS, 1.0, {})
    return run_of("leaderboard", "--log", str(path))(path)


def read_images(_: Path) -> object:
    images = ImageSet.from_manifest("table.csv")
    assert images.items or images.rejected
    assert not any("\n" in each.reason for each in images.rejected)
    rows = np.load("rows.npy")[: len(images.items)]
    labels, weights = zip(*((item.label, item.weight) for item in images.items), strict=True)
    head = fit_rows(rows, np.array(labels), "softmax", C=1.0, sample_weight=np.array(weights))
    assert np.isfinite(head.model.weight).all()
    return head


def read_image(path: Path) -> object:
    if not path.exists() and not path.is_symlink():
        return None
    found = (
        ImageSet.from_paths([path]) if path.is_file() else ImageSet.from_paths([path, "whole.png"])
    )
    assert len(found.items) + len(found.rejected) >= 1
    return [(read_size(item.path), decode(Path(item.path).read_bytes())) for item in found.items]


def image(ending: str) -> Reader:
    def make() -> Path:
        Path("images").mkdir()
        crops(1, size=40)[0].save(f"images/image.{ending}")
        crops(1, size=40)[0].save("whole.png")
        return Path(f"images/image.{ending}")

    return Reader(make, read_image)


def installed(name: str, content: str) -> Callable[[], Path]:
    def make() -> Path:
        folder = Path("site/tiny-1.0.dist-info")
        folder.mkdir(parents=True)
        Path("site/tiny_bases.py").write_text(MODULE)
        (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny\n")
        (folder / "entry_points.txt").write_text("[bottleneck.bases]\ntiny = tiny_bases:tiny\n")
        (folder / name).write_text(content)
        return folder / name

    return make


def read_plugins(_: Path) -> object:
    sys.path.insert(0, str(Path("site").resolve()))
    importlib.invalidate_caches()
    zoo._plugins_in.cache_clear()  # as files change here, but not their folder
    try:
        assert "resnet18" in model_names()
        find_model("resnet18")
        return find_model("tiny")
    finally:
        sys.path.pop(0)
        sys.modules.pop("tiny_bases", None)


def record(kind: str, more: Callable[[], object] = lambda: None) -> Reader:
    def read(_: Path) -> object:
        shutil.rmtree("others", ignore_errors=True)
        KINDS[kind].read()
        return more()

    return Reader(KINDS[kind].make, read, json_fields)


def read_weights(name: str) -> Callable[[Path], object]:
    return lambda _: load_weights(find_model("squeezenet1_1"), name)[1].load()


READERS = {
    "bank.json": record("bank", lambda: find_prunable(Cache("cache"), model="m")),
    "run": record("run", lambda: verify_cache(Cache("cache"))),
    "head.json, affine": record("head", lambda: Head.load("heads/q").predict_proba(X[:, :3])),
    "head.json, mlp": record("network", lambda: Head.load("heads/q").predict_proba(X[:, :3])),
    "head.json, knn": record("neighbours", lambda: Head.load("heads/q").predict_proba(X[:, :3])),
    "model.json": record("model"),
    "plan.json": record("plan"),
    "export's record": record("export"),
    "set": Reader(
        in_world("imported/sets/table.csv"), lambda _: load_features(Cache("imported")), csv_fields
    ),
    "plain part": Reader(only("none/*/parts/*.h5"), read_part("none"), part_fields),
    "compressed part": Reader(only("zstd/*/parts/*.h5"), read_part("zstd"), part_fields),
    "features.h5": Reader(only("none/*/features.h5"), read_part("none"), hdf5_fields),
    "weights, affine": Reader(
        in_world("heads/softmax/head.safetensors"),
        predict_with("softmax"),
        weights_fields("head.json"),
    ),
    "weights, mlp": Reader(
        in_world("heads/mlp/head.safetensors"), predict_with("mlp"), weights_fields("head.json")
    ),
    "weights, knn": Reader(
        in_world("heads/knn/head.safetensors"), predict_with("knn"), weights_fields("head.json")
    ),
    "model.safetensors": Reader(
        in_world("heads/tuned/model.safetensors"),
        lambda _: find_model("heads/tuned").weights["finetuned"].load(),
        weights_fields("model.json"),
    ),
    "seen.txt": Reader(
        in_world("heads/tuned/seen.txt"), lambda _: seen_digests("heads/tuned"), line_fields
    ),
    "checkpoint's state": Reader(make_state, read_state, safetensors_fields),
    "checkpoint's images": Reader(
        in_world("imported/sets/table.csv"), ImageSet.read_csv, csv_fields
    ),
    "experiment log": Reader(in_world("log.sqlite"), read_log, log_fields),
    "policy": Reader(in_world("policy.yaml"), lambda _: find_policy("policy.yaml"), policy_fields),
    "bottleneck.toml": Reader(in_world("bottleneck.toml"), run_of("cache", "ls"), toml_fields),
    "manifest": Reader(in_world("table.csv"), read_images, csv_fields),
    ".pth": Reader(in_world("net.pth"), read_weights("net.pth"), torch_fields),
    ".safetensors": Reader(
        in_world("net.safetensors"), read_weights("net.safetensors"), safetensors_fields
    ),
    "export, HDF5": Reader(
        in_world("out.h5"), lambda path: import_features(fresh(), path), hdf5_fields
    ),
    "export, npz": Reader(
        in_world("out.npz"), lambda path: import_features(fresh(), path), npz_fields
    ),
    "array": Reader(
        in_world("rows.npy"),
        lambda path: import_array(fresh(), path, "table.csv", model="m"),
        npy_fields,
    ),
    "array's table": Reader(
        in_world("table.csv"),
        lambda path: import_array(fresh(), "rows.npy", path, model="m"),
        csv_fields,
    ),
    "entry points": Reader(
        installed("entry_points.txt", "[bottleneck.bases]\ntiny = tiny_bases:tiny\n"),
        read_plugins,
        point_fields,
        pipe=False,
    ),
    "a package's metadata": Reader(
        installed("METADATA", "Metadata-Version: 2.1\nName: tiny\n"),
        read_plugins,
        metadata_fields,
        pipe=False,
    ),
    **{f"image, {ending}": image(ending) for ending in ("png", "jpg", "gif", "bmp", "tif", "webp")},
}
QUICK = [name for name in READERS if name not in {"model.json", "export's record", "export, npz"}]
COUNTED: dict[str, int] = {}
CASES = 24_000


def cases_of(reader: Reader, path: Path) -> Cases:
    """Yield every damage with its name."""
    whole = path.read_bytes()
    for name, content in raw(whole):
        yield name, lambda path, content=content: path.write_bytes(content)

    def replaced(put: Callable[[Path], object]) -> Callable[[Path], object]:
        def apply(path: Path) -> None:
            path.unlink()
            put(path)

        return apply

    for name, put in in_its_place().items():
        if name == "a pipe" and not reader.pipe:
            continue
        yield name, replaced(put)
    yield from reader.forge(path)


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def verdict(reader: Reader, path: Path) -> str:
    """Return what is wrong with how a file is read, or nothing."""
    fifo, hung = path.is_fifo(), []

    def wake() -> None:
        hung.append(path)
        if fifo:
            with contextlib.suppress(OSError):
                os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK))

    def end(*_: object) -> None:
        raise Hung

    timer = threading.Timer(2.0 if fifo else 1e6, wake)
    timer.start()
    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        reader.read(path)
    except Hung:
        return "it hangs"
    except BottleneckError as error:
        told = str(error)
        if "\n" in told or len(told) > LONGEST or not told.strip():
            return f"no sentence: {told[:300]!r} ({len(told)})"
    except BaseException as error:  # noqa: BLE001 - which must not come
        return f"{type(error).__name__}: {str(error)[:200]!r}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        timer.cancel()
    return "it waits for a pipe" if hung else ""


def try_all(reader: Reader, step: int) -> tuple[int, list[str]]:
    """Return the number of cases, and those that are not read as they should be."""
    path = reader.make()
    folder = path.parent
    before = {each: each.read_bytes() for each in folder.iterdir() if each.is_file()}
    count, wrong, cases = 0, [], list(cases_of(reader, path))
    reader.read(path)
    for count, (name, apply) in enumerate(cases):
        if count % step:
            continue
        for each in folder.iterdir():
            if each not in before or not each.is_file() or each.is_symlink():
                remove(each)
        folder.mkdir(parents=True, exist_ok=True)
        for each, content in before.items():
            if not each.exists() or each.read_bytes() != content:
                each.unlink(missing_ok=True)  # which waits less for the disk than emptying it
                each.write_bytes(content)
        apply(path)
        if told := verdict(reader, path):
            wrong.append(f"{name}: {told}")
    return count + 1, wrong


@pytest.mark.ci
@pytest.mark.parametrize("name", READERS)
def test_a_hostile_file_is_read_or_refused_in_a_sentence(world, tmp_path, name):
    shutil.copytree(world, tmp_path, dirs_exist_ok=True)
    count, wrong = try_all(READERS[name], 1)
    COUNTED[name] = count
    assert not wrong, "\n".join(wrong)


@pytest.mark.ci
def test_the_table_is_as_large_as_it_was():
    """After the test above, in the same process."""
    if COUNTED.keys() < READERS.keys():
        pytest.skip("not all readers were tried")
    print(f"{sum(COUNTED.values()):,} cases, {len(COUNTED)} readers", COUNTED)
    assert sum(COUNTED.values()) >= CASES


@pytest.mark.parametrize("name", QUICK)
def test_some_hostile_files(world, tmp_path, name):
    """A sample of the table."""
    shutil.copytree(world, tmp_path, dirs_exist_ok=True)
    _, wrong = try_all(READERS[name], SAMPLE)
    assert not wrong, "\n".join(wrong)


def test_an_error_is_one_short_line_whatever_it_quotes():
    """Names with line ends and control characters, and very long ones."""
    told = str(DataError("no 'a\nb\x1b[2J\u202e' in 'c'; give another"))
    assert told == r"no 'a\nb\x1b[2J\u202e' in 'c'; give another"
    assert (
        str(UsageError(f"'{'x' * 9999}' is no name")) == f"'{'x' * 149}...{'x' * 149}' is no name"
    )
    assert len(str(UsageError("x, " * 9999))) < LONGEST
    assert str(DataError("a class 'é ' of 1 \u200d")) == "a class 'é ' of 1 \u200d"


@pytest.mark.parametrize(
    "base",
    ["heads/tuned", "./heads/tuned/", "heads/../heads/tuned", "{here}/heads/tuned", "heads/other"],
)
def test_circles_of_fine_tuned_models_are_refused(world, tmp_path, base):
    """A model that is its own base, by any name, or the base of its base."""
    shutil.copytree(world, tmp_path, dirs_exist_ok=True)
    shutil.copytree("heads/tuned", "heads/other")
    for name, own in (("tuned", base.format(here=tmp_path)), ("other", "heads/tuned")):
        path = Path("heads", name, "model.json")
        reseal(path, content_of(path) | {"base": own})
    for use in (find_model, lambda name: find_model(f"./{name}/"), seen_of):
        with pytest.raises(WeightsError, match="which is itself fine-tuned; give one"):
            use("heads/tuned")


def seen_of(name: str) -> object:
    assert seen_digests(name) == {DIGEST}
    return find_model(name)


def test_verification_goes_on_after_a_part_that_claims_2_to_the_40_rows(
    world, tmp_path, bottleneck
):
    """All other files are checked, and the part is moved away."""
    shutil.copytree(world, tmp_path, dirs_exist_ok=True)
    cache = Cache("none")
    bank = cache.bank("m", DIGEST)
    (whole,) = bank.part_files()
    for number, resize in enumerate((lambda rows: rows, lambda _: 2**40)):
        path = whole.with_name(f"00000{number + 2}-00000000.h5")
        shutil.copy(whole, path)
        with h5py.File(path, "r+") as file:
            shape, dtype = file["digest"].shape, file["digest"].dtype
            del file["digest"]
            file.create_dataset("digest", (resize(shape[0]), *shape[1:]), dtype, chunks=(1, 32))
        rename_part(path, number + 2)
    Path("none/runs").mkdir()
    Path("none/runs/20260101T000000000000-abcd.json").write_text("[" * 100_000)
    finished = bottleneck("cache", "verify", "--cache", "none", "--json")
    assert finished.code == 1
    damage = json.loads(finished.out)["damage"]
    assert len(damage) == 3
    assert sum("parts" in each["path"] and each["moved_to"] is not None for each in damage) == 2
    assert "Traceback" not in finished.err
    assert bank.part_files() == [whole]
    (good,) = json.loads(finished.out)["banks"]
    assert (good["parts"], good["rows"], good["damaged"]) == (1, 24, 2)


SLOW = [pytest.param(clf, marks=pytest.mark.ci) for clf in ("softmax", "logreg", "svm", "mlp")]


@pytest.mark.parametrize("clf", ["ridge", "lda", "centroid", "knn", *SLOW])
def test_sample_weights_of_any_size_are_used_or_refused(clf):
    """From 1e-9 to 1e9, side by side; others are refused, rather than fitted to nan."""
    generator = np.random.default_rng(0)
    labels = np.array(list("ab") * 12)
    rows = generator.normal(size=(24, 30)).astype(np.float32) + 2 * (labels == "a")[:, None]
    given: dict[str, Any] = {"epochs": 2} if clf == "mlp" else {}
    given |= {"C": 1.0} if clf in {"softmax", "logreg", "svm", "ridge"} else {}
    for low, high in ((1e-9, 1e9), (1e-9, 1e-9), (1e9, 1e9), (0, 1e9)):
        weights = np.where(np.arange(24) // 2 % 2, low, high)
        head = fit_rows(rows, labels, clf, sample_weight=weights, **given)
        assert np.isfinite(head.predict_proba(rows)).all()
    for wrong in (1e300, 1e308, 5e-324, 1e-300):
        weights = np.where(np.arange(24) == 3, wrong, 1)
        with pytest.raises(
            UsageError, match="sample weights are from .*; expected 0, or from 1e-09"
        ):
            fit_rows(rows, labels, clf, sample_weight=weights, **given)


USES = {
    "evaluate --head softmax --cache imported": "heads/softmax/head.json",
    "predict 00.png --head softmax": "heads/softmax/head.safetensors",
    "predict 00.png --head tuned": "heads/tuned/model.json",
    "layers heads/tuned": "heads/tuned/model.json",
    "cache ls --cache none": "none/*/bank.json",
    "cache info m --cache none": "none/*/parts/*.h5",
    "cache verify --cache none": "none/*/parts/*.h5",
    "cache compact --cache none": "none/*/parts/*.h5",
    "cache prune --cache none --older-than 99w": "none/*/bank.json",
    "fit-head --cache imported --C 1": "imported/runs/*.json",
    "fit-head --cache imported --C 1 --name x": "imported/sets/table.csv",
    "cache export again.h5 --cache imported": "imported/*/parts/*.h5",
    "cache import out.h5": "out.h5",
    "cache import out.npz": "out.npz",
    "cache import rows.npy --table table.csv --model m": "rows.npy",
    "leaderboard": "experiments.sqlite",
    "augment-preview --augment policy.yaml --data table.csv --views 1": "policy.yaml",
    "config": "bottleneck.toml",
    "extract --model squeezenet1_1 --weights net.pth --data table.csv": "net.pth",
    "cache import rows.npy --table table.csv --model m --cache new": "table.csv",
}


@pytest.mark.ci
@pytest.mark.parametrize("command", USES)
def test_a_command_tells_a_hostile_file_in_one_line(world, tmp_path, bottleneck, command):
    """No traceback, and an exit code of 0, 1 or 2."""
    shutil.copytree(world, tmp_path, dirs_exist_ok=True)
    shutil.copy("log.sqlite", "experiments.sqlite")
    (path,) = Path().glob(USES[command])
    whole = path.read_bytes()
    cases = [*list(raw(whole))[::5], *((name, b"") for name in in_its_place())]
    for name, content in cases:
        remove(path)
        if name in in_its_place():
            in_its_place()[name](path)
        else:
            path.write_bytes(content)
        finished = bottleneck(*command.split())
        assert finished.code in {0, 1, 2}, name
        errors = [line for line in finished.err.splitlines() if line.startswith("error: ")]
        assert len(errors) == (finished.code != 0) or "cache verify" in command, (name, finished)
        assert "Traceback" not in finished.err

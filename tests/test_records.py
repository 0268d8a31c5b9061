"""Records: any invalid entry in a file with a correct digest is reported in one sentence.

About 6 s in the first tier.
"""

import hashlib
import json
import math
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, Union, get_args, get_origin

import numpy as np
import pytest
from conftest import layer_record, run_record, source_record
from safetensors.numpy import load_file, save_file
from typing_extensions import get_type_hints, is_typeddict

from bottleneck.bases import find_model
from bottleneck.cache import Bank, Cache, verify_cache
from bottleneck.errors import BottleneckError, CacheError, DataError, WeightsError
from bottleneck.exchange import export_features, formats, import_features
from bottleneck.files import _seal, read_json
from bottleneck.finetune.checkpoints import Checkpoint, PlanRecord
from bottleneck.heads import RECIPES, Head
from bottleneck.heads.models import MODELS, Affine, Neighbours, Perceptron
from bottleneck.images import ImageItem, ImageSet
from bottleneck.pooling import POOLS
from bottleneck.records import (
    ArchivedBaseRecord,
    BankRecord,
    ExportRecord,
    Extraction,
    HeadRecord,
    Json,
    ModelRecord,
    RejectedImage,
    StoredLayer,
    TransformFacts,
    write_record,
)
from bottleneck.settings import FinetuneSettings
from bottleneck.settings.values import Classifier

DIGEST = "ab" * 32
BANK = f"m-{DIGEST[:12]}"
AUGMENTATION = {"scheme": 1, "steps": [{"RandomHorizontalFlip": {"p": 0.5}}]}
TRANSFORM = TransformFacts(
    (36, 36), (32, 32), "bilinear", (0.5,) * 3, (0.25,) * 3, max_value=4095, multiple=16
)
ADJUSTMENTS = {
    "image_size": (64, 64),
    "interpolation": "bicubic",
    "squash": True,
    "keep_aspect": True,
    "reduced_decode": True,
    "exact_resize": True,
    "max_value": 4095,
    "max_pixels": 10**9,
}
VIEWS = {"views": 2, "policy": "flip", "view_bank": BANK, "view_fingerprint": DIGEST}
SOURCE = source_record(
    alias="pool", typed="last", adjustments=ADJUSTMENTS, split_digests={"train": DIGEST}
)
INFO = BankRecord(
    fingerprint=DIGEST,
    model="m",
    weights_name="w",
    weights_random=False,
    transform=TRANSFORM,
    pool="none",
    precision={"storage": "float16", "compute": "fp32"},
    layers={
        "a": StoredLayer(
            alias="pool",
            typed="last",
            aliases=["pool", "last"],
            shape=[3],
            canary=[[1.0, 2.0], [3.0, 4.0]],
        )
    },
    schema=4,
    architecture="x:m",
    weights=DIGEST,
    augmentation=AUGMENTATION,
    policy="flip",
    versions={"numpy": "2"},
    source={"file": "x.npy", "sha256": DIGEST},
    seen=[DIGEST],
)
TUNING = FinetuneSettings("all")
PLAN = PlanRecord(settings=TUNING.as_dict(), start={"base": DIGEST})
AFFINE = Affine(np.ones((2, 3), np.float32), np.zeros(2, np.float32))
PERCEPTRON = Perceptron(*(np.ones(shape, np.float32) for shape in ((4, 3), 4, (2, 4), 2)), 0.5)
NEIGHBOURS = Neighbours(
    *(np.ones(shape, np.float32) for shape in ((5, 3), (5, 2), (5, 2), 3, 3)),
    n_neighbors=1,
    multilabel=False,
)


@dataclass(frozen=True)
class Kind:
    """A kind of file: what it holds, and how it is written and read."""

    record: type
    make: Callable[[], Path]
    read: Callable[[], object]


def head_with(model: Any, clf: str) -> Callable[[], Path]:
    facts = {"hyperparameters": {"C": 1.0}, "scores": {"accuracy": 0.5}, "widths": (1, 2)}
    head = Head(clf=clf, classes=("a", "b"), model=model, source=replace(SOURCE, **VIEWS), **facts)
    return lambda: head.save("heads/q") / "head.json"


def make_bank() -> Path:
    bank = Cache("cache").bank("m", DIGEST)
    bank.describe(INFO)
    return bank.info_file


def make_run() -> Path:
    layer = replace(layer_record(BANK), view_bank=BANK, view_fingerprint=DIGEST, alias="pool")
    layer = replace(layer, typed="last")
    made = replace(
        run_record(layers=[replace(layer, aliases=["pool"])]),
        adjustments=ADJUSTMENTS,
        views=2,
        policy="flip",
        augmentation=AUGMENTATION,
        rejected=[RejectedImage("a.png", "bad")],
        leaks=[DIGEST],
        conflicts=[DIGEST],
        several_pages=["a.tif"],
        deep_images=1,
        deep_maximum=4000,
        imported_from="x.npy",
        ignored=[".hidden", "empty/"],
        small_classes={"few": 1},
        lost_classes=["broken"],
    )
    images = ImageSet("data", (ImageItem("a.png", DIGEST, "cat", "train"),))
    images.write_csv(Cache("cache").set_file("data"))
    Cache("cache").record_run(made)
    (path,) = Cache("cache").run_files()
    return path


def make_model() -> Path:
    path = Path("heads/tuned/model.json")
    record = ModelRecord(
        layer="features",
        settings={"epochs": 1},
        augmentation=AUGMENTATION,
        boundary="features.0",
        pool="none",
        image_set="data",
        split_digests={"train": DIGEST},
        started_from=replace(SOURCE, **VIEWS),
        best_epoch=1,
        epochs=2,
        validation={"accuracy": 0.5},
        base="squeezenet1_1",
        architecture="torchvision:squeezenet1_1",
        transform=TRANSFORM,
        weights_sha256=DIGEST,
        judged=[{"image": DIGEST, "before": False, "after": True}],
    )
    write_record(path, record)
    return path


def make_archived() -> Path:
    path = Path("heads/exported/base.json")
    record = ArchivedBaseRecord(
        base="squeezenet1_1",
        weights="w",
        layer="features",
        transform=TRANSFORM,
        weights_sha256=DIGEST,
    )
    write_record(path, record)
    return path


def make_plan() -> Path:
    checkpoint = Checkpoint(Path("heads/tuned"))
    items = (ImageItem("a.png", DIGEST, "cat", "train"),)
    checkpoint.begin(PLAN, ImageSet("data", items, (RejectedImage("b.png", "broken"),)))
    (checkpoint.folder / "state.safetensors").touch()
    return checkpoint.folder / "plan.json"


def make_export() -> Path:
    cache = Cache("cache")
    bank = cache.named(make_bank().parent.name)
    with bank.writer("float16") as writer:
        writer.append([DIGEST], {"a": np.ones((1, 3), np.float32)})
    images = ImageSet("data", (ImageItem("a.png", DIGEST, "cat", "train"),))
    images.write_csv(cache.set_file("data"))
    export_features(cache, replace(SOURCE, **VIEWS), "out.npz")
    return Path("out.npz")


def read_export() -> object:
    return import_features(Cache(f"others/{len(list(Path().glob('others/*')))}"), "out.npz")


KINDS = {
    "head": Kind(HeadRecord, head_with(AFFINE, "softmax"), lambda: Head.load("heads/q")),
    "network": Kind(HeadRecord, head_with(PERCEPTRON, "mlp"), lambda: Head.load("heads/q")),
    "neighbours": Kind(HeadRecord, head_with(NEIGHBOURS, "knn"), lambda: Head.load("heads/q")),
    "bank": Kind(BankRecord, make_bank, lambda: Bank(Path("cache") / BANK).info),
    "run": Kind(Extraction, make_run, lambda: Cache("cache").runs()),
    "model": Kind(ModelRecord, make_model, lambda: find_model("heads/tuned")),
    "archived": Kind(ArchivedBaseRecord, make_archived, lambda: find_model("heads/exported")),
    "plan": Kind(
        PlanRecord, make_plan, lambda: Checkpoint(Path("heads/tuned")).check(PLAN, TUNING)
    ),
    "export": Kind(ExportRecord, make_export, read_export),
}
TEXTS = ("paths", "labels", "splits", "digests")


def content_of(path: Path) -> dict[str, Any]:
    if path.suffix == ".json":
        return read_json(path)
    with np.load(path) as arrays:
        return json.loads(str(arrays["provenance"]))


def reseal(path: Path, content: Any, text: str | None = None) -> None:
    """Write content, whatever it is, with the digest that belongs to it."""
    if path.suffix == ".json":
        if isinstance(content, dict):
            content = {**content, "sha256": _seal(content)}
        path.write_text(json.dumps(content))
        return
    with np.load(path) as arrays:
        held = {key: arrays[key] for key in (*TEXTS, "features")}
    text = json.dumps(content)
    texts = {key: held[key].tolist() for key in TEXTS}
    seal = formats._seal([held["features"]], texts, text)
    np.savez(path, provenance=np.array(text), sha256=np.array(seal), **held)


GONE = object()
WRONG_TYPES: dict[type, list[Any]] = {
    str: [7, None, ["a"], {}],
    bool: [1, "true", None],
    int: [True, "7", 1.5, [1]],
    float: ["0.5", True, [1.5], math.nan, math.inf, -math.inf],
    Literal: [99, "2", None, True],
    list: [{"0": 1}, "a", 3],
    tuple: [{"0": 1}, "a", 3],
    dict: [[1], "a", 3],
}
UNKNOWN: dict[type, list[Any]] = {str: ["no such"], int: [-1], float: [-1.0]}
"""Where a type has bounds, or names its values."""


def without_extras(hint: Any) -> tuple[Any, list[Any]]:
    """Return a type without its annotations and `None`, and the annotations."""
    extras: list[Any] = []
    while True:
        if get_origin(hint) is Annotated:
            hint, *own = get_args(hint)
            extras += own
        elif get_origin(hint) is NotRequired:
            (hint,) = get_args(hint)
        elif get_origin(hint) in {Union, types.UnionType}:
            # Of several kinds of record, the examples hold the first.
            hint = next(each for each in get_args(hint) if each is not type(None))
        else:
            return hint, extras


def keys_of(kind: Any) -> dict[str, tuple[Any, bool]]:
    """Return the type of each key, and whether it may be missing."""
    hints = get_type_hints(kind, include_extras=True)
    if is_typeddict(kind):
        return {key: (hints[key], key in kind.__optional_keys__) for key in hints}
    return {
        each.name: (
            hints[each.name],
            (each.default, each.default_factory) != (MISSING, MISSING),
        )
        for each in fields(kind)
    }


def cases(kind: Any, place: tuple[Any, ...], held: Any) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Yield what cannot be in a record: where, and what is put there."""
    for key, (hint, optional) in keys_of(kind).items():
        if key not in held and is_typeddict(kind):
            continue  # of another kind of head
        assert key in held, f"the example of {kind.__name__} lacks {key}"
        if not optional:
            yield (*place, key), GONE
        yield from values((*place, key), hint, held[key])


def values(place: tuple[Any, ...], hint: Any, held: Any) -> Iterator[tuple[tuple[Any, ...], Any]]:
    optional = type(None) in get_args(hint)
    if hint is Json:
        yield from ((place, wrong) for wrong in (math.nan, {"x": [math.inf]}))
        return
    hint, extras = without_extras(hint)
    origin = get_origin(hint) or hint
    is_object = is_dataclass(hint) or is_typeddict(hint)
    wrongs = [*WRONG_TYPES[dict if is_object else origin]]
    if extras:
        wrongs += UNKNOWN.get(origin, [])
    yield from ((place, wrong) for wrong in wrongs if not (optional and wrong is None))
    if is_object:
        yield from cases(hint, place, held)
    elif origin in {list, tuple}:
        assert held, f"the example of {place} is empty"
        yield from values((*place, 0), get_args(hint)[0], held[0])
    elif origin is dict:
        key = next(iter(held))
        yield from values((*place, key), get_args(hint)[1], held[key])


def changed(content: Any, place: tuple[Any, ...], wrong: Any) -> Any:
    copy = json.loads(json.dumps(content))
    inner = copy
    for key in place[:-1]:
        inner = inner[key]
    if wrong is GONE:
        del inner[place[-1]]
    else:
        inner[place[-1]] = wrong
    return copy


def refusal(kind: Kind, path: Path) -> str:
    with pytest.raises(BottleneckError) as caught:
        kind.read()
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert str(path) in sentence
    assert len(sentence) < 600
    return sentence


@pytest.mark.parametrize("name", KINDS)
def test_each_key_is_checked(name):
    """Missing, of another type, of an unknown value, not finite: each key of each record."""
    kind = KINDS[name]
    path = kind.make()
    content = content_of(path)
    kind.read()
    assert json.loads(json.dumps(content)) == content
    told = set()
    for place, wrong in cases(kind.record, (), content):
        reseal(path, changed(content, place, wrong))
        try:
            sentence = refusal(kind, path)
        except BaseException as error:
            error.add_note(f"{place} was {wrong!r}")
            raise
        assert next(str(key) for key in reversed(place) if isinstance(key, str)) in sentence
        told.add(place[0])
    assert told == {each.name for each in fields(kind.record)}
    reseal(path, content)
    kind.read()


@pytest.mark.parametrize("name", [name for name in KINDS if KINDS[name].record.SCHEMA])
def test_the_schema_is_checked(name):
    kind = KINDS[name]
    path = kind.make()
    content = content_of(path)
    for wrong in (GONE, "4", True, None, [4]):
        reseal(path, changed(content, ("schema",), wrong))
        assert "'schema'" in refusal(kind, path)
    reseal(path, content | {"schema": 99})
    if name == "run":
        assert kind.read() == []  # another version's is no damage
        assert not verify_cache(Cache("cache")).damage
    else:
        assert "(another version of this package wrote it: schema 99" in refusal(kind, path)


@pytest.mark.parametrize("name", KINDS)
def test_json_that_is_not_an_object_or_too_deep_is_refused(name):
    kind = KINDS[name]
    path = kind.make()
    content = content_of(path)
    for wrong in ([], None, 3, "text", [content]):
        reseal(path, wrong)
        refusal(kind, path)
    deep: list[Any] = []
    for _ in range(300):
        deep = [deep]
    reseal(path, content | {"layers": deep, "scores": deep, "bank": deep, "settings": deep})
    refusal(kind, path)
    if path.suffix == ".json":
        raw = (b"[" * 100_000, b"[" * 100_000 + b"]" * 100_000, b"\xff{}", b"", b"{", b"\0")
        for wrong in raw:
            path.write_bytes(wrong)
            refusal(kind, path)
        path.unlink()
        path.mkdir()
        if name in {"bank", "run"}:
            refusal(kind, path)


def test_verification_sets_wrong_records_aside():
    make_bank()
    path = make_run()
    reseal(path, content_of(path) | {"layers": 3})
    info = Path("cache", BANK, "bank.json")
    reseal(info, content_of(info) | {"pool": "no such"})
    found = verify_cache(Cache("cache")).damage
    assert [Path(each.path) for each in found] == [info, path]
    assert not info.exists()
    assert not path.exists()
    assert "expected one of 'none', 'avg'" in found[0].reason


def test_records_of_earlier_versions_are_read():
    """Heads without known features, imports, and records from before views."""
    path = KINDS["head"].make()
    reseal(path, content_of(path) | {"source": {}})
    assert Head.load("heads/q").source is None
    path = make_bank()
    reseal(path, content_of(path) | {"transform": {"crop": None}})
    assert Bank(path.parent).info == replace(
        INFO, transform=None, created=Bank(path.parent).info.created
    )
    path = make_run()
    shared = ("schema", "time", "image_set", "model", "weights", "weights_random", "precision")
    old = {
        key: content_of(path)[key] for key in (*shared, "dtype", "adjustments", "image_set_digest")
    }
    layer = content_of(path)["layers"][0]
    del layer["view_bank"], layer["view_fingerprint"], layer["typed"]
    reseal(path, old | {"layers": [layer]})
    (run,) = Cache("cache").runs()
    assert run.views == 0
    assert run.sources[0].view_bank is None
    assert run.sources[0].layer_name == "pool"


def test_a_source_without_views_is_written_as_before_there_were_any():
    plain = replace(SOURCE, split_digests=None).as_dict()
    assert not {*VIEWS, "split_digests"} & set(plain)
    assert {*VIEWS} <= set(replace(SOURCE, **VIEWS).as_dict())


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"weight": np.full((2, 3), np.nan, np.float32)}, "weight contains nan or inf"),
        ({"bias": np.array([1, np.inf], np.float32)}, "bias contains nan or inf"),
        ({"weight": np.ones((2, 4), np.float32)}, "weight has the shape (2, 4) of float32"),
        (
            {"weight": np.ones((3, 3), np.float32)},
            "expected floating-point numbers of shape (2, 3)",
        ),
        ({"bias": np.ones(3, np.float32)}, "expected floating-point numbers of shape (2,)"),
        ({"bias": np.ones((2, 1), np.float32)}, "bias has the shape (2, 1)"),
        ({"weight": np.ones((2, 3), np.int64)}, "of int64, expected floating-point numbers"),
        ({"bias": None}, "of the kind 'affine' has weight, expected bias, weight"),
        ({"more": np.ones(2, np.float32)}, "has bias, more, weight, expected bias, weight"),
    ],
)
def test_weights_that_do_not_fit_are_refused(wrong, reason):
    path = KINDS["head"].make()
    weights = path.with_name("head.safetensors")
    held = {key: each for key, each in {**load_file(weights), **wrong}.items() if each is not None}
    save_file(held, weights)
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    reseal(path, content_of(path) | {"weights_sha256": digest})
    with pytest.raises(DataError) as caught:
        Head.load("heads/q")
    assert reason in str(caught.value)
    assert str(weights) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["head", "network", "neighbours"])
def test_weights_of_another_kind_are_refused(name):
    path = KINDS[name].make()
    content = content_of(path)
    for kind in MODELS:
        reseal(path, content | {"kind": kind})
        if kind == content["kind"]:
            Head.load("heads/q")
        else:
            with pytest.raises(DataError, match=f"a model of the kind '{kind}' has"):
                Head.load("heads/q")
    for key, more in (("n_features", 1), ("classes", ["c"])):
        reseal(path, content | {key: content[key] + more})
        with pytest.raises(
            DataError, match="has the shape .* expected floating-point numbers of shape"
        ):
            Head.load("heads/q")


@pytest.mark.parametrize(
    ("name", "wrong", "reason"),
    [
        ("head", {"clf": "knn"}, "'kind' is 'affine', expected 'knn' as 'clf' is 'knn'"),
        ("head", {"clf": "mlp"}, "'kind' is 'affine', expected 'mlp' as 'clf' is 'mlp'"),
        ("neighbours", {"clf": "svm"}, "'kind' is 'knn', expected 'affine' as 'clf' is 'svm'"),
        ("head", {"classes": ["b", "a"]}, "'classes' is ['b', 'a'], expected different ones"),
        ("head", {"classes": ["a", "a"]}, "'classes' is ['a', 'a'], expected different ones"),
        ("head", {"classes": ["10", "9"]}, ""),
        ("head", {"classes": ["9", "10"]}, ""),
        ("head", {"classes": ["-1.0", "-2.0"]}, ""),
        ("head", {"classes": ["9", "10x"]}, ""),
        ("head", {"classes": ["10x", "9"]}, ""),
        ("head", {"classes": ["day 2", "day 10"]}, ""),
        (
            "head",
            {"multilabel": True},
            "'multilabel' is True, expected False as 'clf' is 'softmax'",
        ),
        (
            "neighbours",
            {"multilabel": True},
            "'multilabel' is True, expected False as in 'settings'",
        ),
        (
            "neighbours",
            {"hyperparameters": {"n_neighbors": 5}},
            "'n_neighbors' is 5, expected 1 as in 'settings'",
        ),
    ],
)
def test_a_head_that_contradicts_itself_is_refused(name, wrong, reason):
    """Classes are sorted as texts, as numbers, or as people sort them: labels may be any."""
    path = KINDS[name].make()
    reseal(path, content_of(path) | wrong)
    if not reason:
        assert list(Head.load("heads/q").classes) == wrong["classes"]
        return
    with pytest.raises(DataError) as caught:
        Head.load("heads/q")
    assert f"the head '{path}' cannot be read ({reason}" in str(caught.value)
    assert str(caught.value).endswith("; run 'bottleneck fit-head' again")


@pytest.mark.parametrize("value", [10**30, 65536])
def test_a_run_of_more_views_than_there_can_be_is_refused(value):
    path = make_run()
    reseal(path, content_of(path) | {"views": value})
    with pytest.raises(CacheError, match="'views' is"):
        Cache("cache").runs()


def test_damaged_weights_are_refused():
    path = KINDS["head"].make().with_name("head.safetensors")
    path.write_bytes(b"no such")
    with pytest.raises(DataError, match="head.safetensors' cannot be read .* from different heads"):
        Head.load("heads/q")
    digest = hashlib.sha256(b"no such").hexdigest()
    record = path.with_name("head.json")
    reseal(record, content_of(record) | {"weights_sha256": digest})
    with pytest.raises(DataError, match="head.safetensors' cannot be read"):
        Head.load("heads/q")


def test_a_model_is_not_its_own_base():
    path = make_model()
    reseal(path, content_of(path) | {"base": "heads/tuned"})
    with pytest.raises(WeightsError, match="which is itself fine-tuned"):
        find_model("heads/tuned")


def test_a_bank_never_names_another_folder():
    path = make_run()
    content = content_of(path)
    for wrong in (f"../{BANK}", f"a/{BANK}", f"..\\{BANK}", "m", ""):
        reseal(path, changed(content, ("layers", 0, "view_bank"), wrong))
        with pytest.raises(CacheError, match="view_bank"):
            Cache("cache").runs()


def test_names_agree_with_those_of_the_code():
    assert tuple(RECIPES) == get_args(Classifier)
    assert {"none", "avg", "max", "gem", "spp", "cls", "cls+avg", "map"} == set(POOLS)
    assert set(MODELS) == {"affine", "mlp", "knn"}


def test_records_load_no_heavy_library():
    code = """
import sys, bottleneck.records
loaded = {"torch", "h5py", "sklearn", "scipy", "numpy"} & set(sys.modules)
assert not loaded, loaded
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

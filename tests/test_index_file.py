"""The index of a bank with many parts, which is never trusted over the parts themselves.

About 3 s in the first tier.
"""

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest

from bottleneck.cache import Bank, Cache, compact_bank, index_file, verify_cache
from bottleneck.cache.parts import Part
from bottleneck.errors import DamagedError
from bottleneck.records import BankRecord

FINGERPRINT, LAYER, PARTS = "ab" * 32, "features.30", 70


def digests(part: int) -> list[str]:
    return [f"{3 * part + row:064x}" for row in range(3)]


def fill(bank: Bank, parts: range, *, compress: str = "none") -> None:
    """Add parts of three rows each."""
    with bank.writer("float16", part_seconds=0, compress=compress) as writer:
        for part in parts:
            rows = np.arange(18, dtype=np.float32).reshape(3, 6) + part
            writer.append(digests(part), {LAYER: rows, "other": rows[:, :2]})


@pytest.fixture
def bank() -> Bank:
    """With many parts, of which some are compressed, and their index."""
    made = Cache("cache").bank("vgg16", FINGERPRINT)
    made.describe(BankRecord.imported(FINGERPRINT, "vgg16", {LAYER: [6], "other": [2]}))
    fill(made, range(PARTS - 5))
    fill(made, range(PARTS - 5, PARTS), compress="lz4")
    made.rebuild_view_file()
    return Bank(made.path)


def facts(part: Part) -> tuple:
    """All that is known of a part, comparable."""
    layers = {
        name: (layer.shape, layer.dtype, layer.offset, layer.sums.tobytes())
        for name, layer in part.layers.items()
    }
    rest = (part.compress, part.fingerprint, part.seal, part.places)
    return (part.path, part.digests.tobytes(), part.views.tobytes(), layers, *rest)


def by_hdf5(bank: Bank) -> list[tuple]:
    return [facts(Part.open(path)) for path in bank.part_files()]


@pytest.fixture
def opened(monkeypatch) -> list[Path]:
    """The parts that HDF5 has opened."""
    found: list[Path] = []
    open_part = index_file.open_part
    monkeypatch.setattr(index_file, "open_part", lambda path: found.append(path) or open_part(path))
    return found


def test_parts_are_opened_without_hdf5(bank, opened):
    """As HDF5 opens them, and with the same rows."""
    assert [facts(part) for part in bank.parts()] == by_hdf5(bank)
    assert opened == []
    found = bank.read(LAYER, digests(0) + digests(PARTS - 1))
    assert found[:, 0].tolist() == [0, 6, 12, 69, 75, 81]
    assert not verify_cache(Cache("cache")).strangers


def test_new_parts_are_opened_by_hdf5_until_the_index_has_them(bank, opened):
    fill(bank, range(PARTS, PARTS + 2))
    assert len(bank.parts()) == PARTS + 2
    assert opened == bank.part_files()[-2:]
    bank.rebuild_view_file()
    opened.clear()
    assert [facts(part) for part in Bank(bank.path).parts()] == by_hdf5(bank)
    assert opened == []


def of_one(changed: dict, **entry: object) -> dict:
    """The content of an index in which the entry of the first part has other values."""
    first = min(changed["parts"])
    return changed | {"parts": changed["parts"] | {first: changed["parts"][first] | entry}}


@pytest.mark.parametrize(
    ("change", "opens"),
    [
        (lambda _: None, PARTS),
        (lambda _: [], PARTS),
        (lambda found: found | {"schema": 1}, PARTS),
        (lambda found: found | {"fingerprint": "cd" * 32}, PARTS),
        (lambda found: found | {"parts": {}}, PARTS),
        (lambda found: found | {"parts": 5}, PARTS),
        (lambda found: of_one(found, size=1), 1),
        (lambda found: of_one(found, time=1), 1),
        (lambda found: of_one(found, seal="ab" * 32), 1),
        (lambda found: of_one(found, rows=2), 1),
        (lambda found: of_one(found, rows=10**15), 1),
        (lambda found: of_one(found, places={"digest": 10**9, "view": 0}), 1),
        (lambda found: of_one(found, layers={LAYER: [[3, 7], "<f2", 0, 1]}), 1),
        (lambda found: of_one(found, layers=5, places="x"), 1),
    ],
)
def test_an_index_that_is_wrong_changes_nothing(bank, opened, change, opens):
    path = bank.path / "parts.json"
    index = change(json.loads(path.read_text())["index"])
    text = json.dumps(index, separators=(",", ":")).encode()
    path.write_text(json.dumps({"sha256": hashlib.sha256(text).hexdigest(), "index": index}))
    assert [facts(part) for part in bank.parts()] == by_hdf5(bank)
    assert len(opened) == opens


@pytest.mark.parametrize("key", ["offset", "rows", "checksums"])
def test_a_damaged_index_changes_nothing(bank, opened, key):
    """Not even a place of values, which the keys do not tell."""
    path = bank.path / "parts.json"
    content = json.loads(path.read_text())
    entry = next(iter(content["index"]["parts"].values()))
    if key == "rows":
        entry["rows"] += 1
    elif key == "offset":
        entry["layers"][LAYER][2] += 2
    else:
        entry["places"][f"checksums/{LAYER}"] += 8
    path.write_text(json.dumps(content))
    assert [facts(part) for part in bank.parts()] == by_hdf5(bank)
    assert len(opened) == PARTS
    assert bank.read(LAYER, digests(0)).shape[0] == len(digests(0))


def test_a_truncated_index_changes_nothing(bank, opened):
    path = bank.path / "parts.json"
    path.write_bytes(path.read_bytes()[:500])
    assert [facts(part) for part in bank.parts()] == by_hdf5(bank)
    assert len(opened) == PARTS


def test_a_flipped_bit_in_the_keys_is_found(bank):
    """Although the part has the size and the time of its entry."""
    path = bank.part_files()[3]
    known, content = path.stat(), bytearray(path.read_bytes())
    entry = json.loads((bank.path / "parts.json").read_text())["index"]["parts"][path.name]
    content[entry["places"]["digest"]] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(known.st_atime_ns, known.st_mtime_ns))
    with pytest.raises(DamagedError, match=path.name):
        bank.parts()


def test_few_parts_need_no_index(bank):
    compact_bank(bank)
    assert len(Bank(bank.path).parts()) < 5
    assert not (bank.path / "parts.json").exists()

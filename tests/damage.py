"""Kinds of damage to files: to any file, and to each field of a format."""

import contextlib
import csv
import hashlib
import io
import json
import math
import os
import random
import sqlite3
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from test_records import GONE, changed, content_of, reseal

Cases = Iterator[tuple[str, Callable[[Path], object]]]
"""Each damage with its name: a function that does it to a file."""
DEEP = 20_000


def raw(whole: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield damaged contents of any file."""
    generator = random.Random(len(whole))
    yield "empty", b""
    for share in (1, 7, len(whole) // 4, len(whole) // 2, 3 * len(whole) // 4, len(whole) - 1):
        yield f"truncated at {share}", whole[:share]
    yield "doubled", whole * 2
    yield "zeros", bytes(max(1, len(whole)))
    yield "random", generator.randbytes(64)
    yield "random, of its size", generator.randbytes(len(whole))
    yield "random beginning", generator.randbytes(16) + whole[16:]
    yield (
        "zeros in the middle",
        whole[: len(whole) // 3] + bytes(64) + whole[len(whole) // 3 + 64 :],
    )
    yield "UTF-16", whole.decode("latin-1").encode("utf-16")
    yield "a byte order mark", b"\xef\xbb\xbf" + whole
    yield "Latin-1", whole + "é".encode("latin-1")
    yield "Latin-1 inside", whole[: len(whole) // 2] + b"\xe9\xff" + whole[len(whole) // 2 :]
    yield "a NUL at the end", whole + b"\0"
    yield "carriage returns", whole.replace(b"\n", b"\r")
    yield "one long line", b"x" * 300_000
    yield "blank lines", b"\n" * 1000
    for name, opening, closing in (("[", "[", "]"), ("{", '{"a":', "}"), ("(", "(", ")")):
        yield f"{DEEP} {name}", (opening * DEEP).encode()
        yield f"{DEEP} {name}, closed", (opening * DEEP + "1" + closing * DEEP).encode()
    yield (
        "a pointer of git-lfs",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
    )
    yield "a web page", b"<!DOCTYPE html><html><body>Sign in</body></html>"
    yield (
        "a pickle",
        b"\x80\x04\x95\x0c\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x8c\x06system\x93.",
    )
    for number in range(8):
        flipped = bytearray(whole or b"\0")
        place = generator.randrange(8 * len(flipped))
        flipped[place // 8] ^= 1 << place % 8
        yield f"flipped bit {number}", bytes(flipped)


def in_its_place() -> dict[str, Callable[[Path], object]]:
    """Return what may stand where a file belongs."""

    def folder(path: Path) -> None:
        path.mkdir()
        (path / "file").touch()

    return {
        "absent": lambda _: None,
        "an empty folder": Path.mkdir,
        "a folder": folder,
        "a link to itself": lambda path: path.symlink_to(path.name),
        "a link to nothing": lambda path: path.symlink_to("nothing"),
        "an empty device": lambda path: path.symlink_to("/dev/null"),
        "a pipe": os.mkfifo,
    }


# Damage to a field

TEXTS = (
    "",
    " ",
    "\0",
    "\x1b[31m\n\r\u2028",
    "é" * 300,
    "x" * 200_000,
    "../../x",
    "/dev/zero",
    "nan",
)
NUMBERS = (True, -1, 0, 1.5, 2**31, 2**63, 2**64, 10**40, 1e308, 5e-324, math.nan, math.inf)
JSONS = (GONE, None, *NUMBERS, *TEXTS, [], [None], [[]], {}, {"a": {}}, [1e308] * 3, ["\0"])
CELLS = (
    *(text for text in TEXTS if text != "\0"),
    *(
        "1e300",
        "1e400",
        "-1",
        "1e-320",
        "0",
        "inf",
        "٣",
        "1_0",
        "0x1",
        '"',
        "a\nb",
        "=1+1",
        ";",
        "a;;b",
    ),
)


def nested(depth: int = 300) -> Any:
    deep: Any = 1
    for _ in range(depth):
        deep = [deep]
    return deep


def places(content: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the place of each value in JSON, and of the first of each list."""
    if place:
        yield place
    inner = (
        content
        if isinstance(content, dict)
        else dict(enumerate(content[:1]))
        if isinstance(content, list)
        else {}
    )
    for key, value in inner.items():
        yield from places(value, (*place, key))


def json_fields(path: Path) -> Cases:
    """Each key of a record, with a digest that fits."""
    content = content_of(path)
    for place in places(content):
        name = ".".join(map(str, place))
        for wrong in (*JSONS, nested()):
            told = "gone" if wrong is GONE else repr(wrong)[:40]
            new = changed(content, place, wrong)
            yield f"{name} {told}", lambda path, new=new: reseal(path, new)
        if isinstance(place[-1], str):
            new = changed(content, (*place[:-1], "no such\x1b"), 1)
            yield f"more than {name}", lambda path, new=new: reseal(path, new)


def csv_fields(path: Path) -> Cases:
    """Each cell of the header and of a row."""
    with path.open(newline="") as stream:
        rows = list(csv.reader(stream))

    def written(rows: list[list[str]]) -> Callable[[Path], object]:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(rows)
        return lambda path: path.write_text(text.getvalue(), newline="")

    for line in (0, 1):
        for place, name in enumerate(rows[0]):
            for cell in CELLS:
                own = [list(row) for row in rows]
                own[line][place] = cell
                yield f"line {line} {name} {cell[:20]!r}", written(own)
            yield (
                f"line {line} a shorter row {place}",
                written(
                    [row[:place] if number == line else row for number, row in enumerate(rows)]
                ),
            )
            yield (
                f"line {line} without {name}",
                written(
                    [
                        row[:place] + row[place + 1 :] if number in {line, 0} else row
                        for number, row in enumerate(rows)
                    ]
                ),
            )
            yield (
                f"line {line} {name} twice",
                written(
                    [
                        [*row, row[place]] if number == line else row
                        for number, row in enumerate(rows)
                    ]
                ),
            )
    yield "the header alone", written(rows[:1])
    yield "no header", written(rows[1:])
    yield "more cells", written([rows[0], [*rows[1], "x", "y"], *rows[2:]])
    yield "semicolons", lambda path: path.write_text(path.read_text().replace(",", ";"))


def _sized(resize: Callable[[Any], Any], *, chunked: bool) -> Callable[..., object]:
    """Claim another shape without writing any value."""

    def put(file: h5py.File, name: str, held: np.ndarray) -> None:
        shape = resize(held.shape)
        chunks = tuple(min(9, each) for each in shape) if chunked else None
        file.create_dataset(name, shape, held.dtype, chunks=chunks)

    return put


def _stored(convert: Callable[[np.ndarray], Any]) -> Callable[..., object]:
    return lambda file, name, held: file.create_dataset(name, data=convert(held))


def _linked(link: Callable[[str], Any]) -> Callable[..., object]:
    return lambda file, name, _: file.__setitem__(name, link(name))


def _virtual(file: h5py.File, name: str, held: np.ndarray) -> None:
    layout = h5py.VirtualLayout(held.shape, held.dtype)
    layout[...] = h5py.VirtualSource("no such.h5", "x", held.shape)
    file.create_virtual_dataset(name, layout)


def _outside(file: h5py.File, name: str, held: np.ndarray) -> None:
    file.create_dataset(name, held.shape, held.dtype, external=[("/etc/hostname", 0, 10**6)])


DATASETS: dict[str, Callable[..., object]] = {
    "gone": lambda *_: None,
    "a number": _stored(lambda _: 7),
    "a text": _stored(lambda _: "text"),
    "texts": _stored(lambda _: ["a", "é"]),
    "nothing": _stored(lambda _: h5py.Empty("f4")),
    "no rows": _sized(lambda shape: (0, *shape[1:]), chunked=False),
    "as many unwritten rows": _sized(lambda shape: shape, chunked=False),
    **{
        f"{shown}{' in chunks' * chunked}": _sized(resize, chunked=chunked)
        for chunked in (False, True)
        for shown, resize in {
            "2^40 rows": lambda shape: (2**40, *shape[1:]),
            "2^55 rows": lambda shape: (2**55, *shape[1:]),
            "2^40 columns": lambda shape: (*shape[:1], 2**40),
            "one row more": lambda shape: (shape[0] + 1, *shape[1:]),
        }.items()
    },
    "one axis more": _stored(lambda held: held[..., None]),
    "transposed": _stored(lambda held: held.T.copy()),
    "complex": _stored(lambda held: np.zeros(held.shape, np.complex64)),
    "1e300": _stored(lambda held: np.full(held.shape, 1e300)),
    "nan": _stored(lambda held: np.full(held.shape, math.nan, np.float16)),
    "wide integers": _stored(lambda held: np.full(held.shape, 2**63, np.uint64)),
    "records": _stored(lambda held: np.zeros(held.shape, [("a", "i4"), ("b", "f8")])),
    "a group": lambda file, name, _: file.create_group(name),
    "a link to nothing": _linked(lambda _: h5py.SoftLink("/no such")),
    "a link to itself": _linked(lambda name: h5py.SoftLink(f"/{name}")),
    "a link elsewhere": _linked(lambda _: h5py.ExternalLink("/etc/hostname", "/x")),
    "a virtual one": _virtual,
    "values elsewhere": _outside,
}
ATTRIBUTES = (
    *(GONE, 7, -1, 2**63, 1.5, math.nan, "text", "", "é\x1b", b"\xff", [1, 2], ["a", "b"]),
    *(np.void(b"x"), h5py.Empty("f4")),
)


def hdf5_fields(path: Path, finish: Callable[[Path], object] = lambda _: None) -> Cases:
    """Each dataset and attribute of an HDF5 file."""
    names: list[str] = []
    with h5py.File(path) as file:
        attributes = list(file.attrs)
        file.visititems(lambda name, each: names.append(name) if hasattr(each, "shape") else None)

    def replaced(name: str, put: Callable[..., object]) -> Callable[[Path], object]:
        def apply(path: Path) -> None:
            with h5py.File(path, "r+") as file:
                held = file[name][:]
                del file[name]
                put(file, name, held)
            finish(path)

        return apply

    def noted(name: str, value: Any) -> Callable[[Path], object]:
        def apply(path: Path) -> None:
            with h5py.File(path, "r+") as file:
                del file.attrs[name]
                if value is not GONE:
                    file.attrs[name] = value
            finish(path)

        return apply

    for name in names:
        yield from ((f"{name} {way}", replaced(name, put)) for way, put in DATASETS.items())
    for name in attributes:
        yield from ((f"{name} {value!r:.20}", noted(name, value)) for value in ATTRIBUTES)


ARRAYS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "a number": lambda _: np.array(7),
    "no rows": lambda values: values[:0],
    "a row less": lambda values: values[:-1],
    "one axis more": lambda values: values[..., None],
    "one axis": lambda values: values.reshape(-1),
    "40 axes": lambda values: values.reshape(-1)[(slice(None), *(None,) * 39)],
    "integers": lambda values: np.zeros(values.shape, np.int64),
    "truths": lambda values: np.zeros(values.shape, bool),
    "complex": lambda values: np.zeros(values.shape, np.complex128),
    "texts": lambda values: np.full(values.shape, "\0é"),
    "bytes": lambda values: np.full(values.shape, b"\xff"),
    "times": lambda values: np.zeros(values.shape, "M8[s]"),
    "objects": lambda values: np.full(values.shape, None),
    "records": lambda values: np.zeros(values.shape, [("a", "f4"), ("b", "U3")]),
    "nan": lambda values: np.full(values.shape, math.nan),
    "inf": lambda values: np.full(values.shape, math.inf, np.float32),
    "1e300": lambda values: np.full(values.shape, 1e300),
    "1e38": lambda values: np.full(values.shape, 3e38, np.float32),
    "tiny": lambda values: np.full(values.shape, 1e-45, np.float32),
    "big endian": lambda values: np.ones(values.shape, ">f4"),
    "columns first": lambda values: np.asfortranarray(np.ones(values.shape, np.float32)),
    "long double": lambda values: np.ones(values.shape, np.longdouble),
}
HEADERS = (
    "{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776, 7), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (4611686018427387904, 7), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 7), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (1e9, 7), }",
    "{'descr': '<f4', 'fortran_order': 7, 'shape': (8, 7), }",
    "{'descr': '<f4', 'shape': (8, 7), }",
    "{'descr': '|O', 'fortran_order': False, 'shape': (8, 7), }",
    "{'descr': '<f9', 'fortran_order': False, 'shape': (8, 7), }",
    "{'descr': [('a', '<f4', (2, 99999999999999))], 'fortran_order': False, 'shape': (8, 7), }",
    "{'descr': 7, 'fortran_order': False, 'shape': (8, 7), }",
    "__import__('os')",
    "[" * 3000,
    "{" * 9000,
    "",
)


def npy_with(header: str) -> bytes:
    text = header.encode("latin-1").ljust(118) + b"\n"
    return b"\x93NUMPY\x02\x00" + struct.pack("<I", len(text)) + text + bytes(224)


def npy_fields(path: Path) -> Cases:
    """Types, shapes and values of an array, and what its header says."""
    held = np.load(path)
    for name, make in ARRAYS.items():
        yield name, lambda path, make=make: np.save(path, make(held), allow_pickle=True)
    for header in HEADERS:
        yield header[:60], lambda path, header=header: path.write_bytes(npy_with(header))
    yield "a version of its own", lambda path: path.write_bytes(b"\x93NUMPY\x63\x00" + bytes(200))
    yield "a longer header", lambda path: path.write_bytes(b"\x93NUMPY\x02\x00\xff\xff\xff\xff")


def npz_fields(path: Path) -> Cases:
    """Each array of an export, and each key of its record with a digest that fits."""
    with np.load(path) as arrays:
        held = dict(arrays)

    def written(arrays: dict[str, np.ndarray]) -> Callable[[Path], object]:
        return lambda path: np.savez(path, **arrays)

    def with_entry(name: str, content: bytes) -> Callable[[Path], object]:
        def apply(path: Path) -> None:
            np.savez(path, **{key: each for key, each in held.items() if key != name})
            with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr(f"{name}.npy", content)

        return apply

    for name, values in held.items():
        yield f"{name} gone", written({key: each for key, each in held.items() if key != name})
        for way, make in ARRAYS.items():
            if values.ndim or way not in {"no rows", "a row less"}:
                yield f"{name} {way}", written(held | {name: make(values)})
        for header in HEADERS:
            yield f"{name} {header[:60]}", with_entry(name, npy_with(header))
        yield f"{name} no array", with_entry(name, b"no array")
    yield "more", written(held | {"more": np.ones(3)})
    bomb = b"\x93NUMPY\x02\x00" + struct.pack("<I", 10**6) + b" " * 10**6
    yield "a header of a megabyte", with_entry("paths", bomb)
    yield from json_fields(path)


def safetensors_with(header: Any, data: bytes = bytes(64)) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def safetensors_contents(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield what the header may say of each tensor, and other tensors."""
    whole = path.read_bytes()
    (length,) = struct.unpack("<Q", whole[:8])
    header, data = json.loads(whole[8 : 8 + length]), whole[8 + length :]
    for size in (0, 1, 2**31, 2**63, 2**64 - 1):
        yield f"a header of {size}", struct.pack("<Q", size) + whole[8:]
    for text in (b"", b"[]", b"7", b"{", b"[" * DEEP, b'{"a":' * DEEP, b"\xff", b'"x"', b"null"):
        yield f"header {text[:8]!r}", safetensors_with(text, data)
    for place in places(header):
        for wrong in (
            *JSONS,
            nested(100),
            [2**40, 2**40],
            [0, 2**40],
            [8, 4],
            "F8_E4M3",
            "I64",
            "BF16",
            "BOOL",
        ):
            yield f"{place} {wrong!r:.20}", safetensors_with(changed(header, place, wrong), data)
    tensors = load_file(path)
    for name, tensor in list(tensors.items())[:4]:
        for way in (
            "a number",
            "no rows",
            "one axis more",
            "integers",
            "truths",
            "nan",
            "inf",
            "1e300",
            "1e38",
            "tiny",
        ):
            if tensor.ndim or way != "no rows":
                made = np.ascontiguousarray(ARRAYS[way](tensor))
                stored = path.with_name("other.safetensors")
                save_file(tensors | {name: made}, stored)
                content = stored.read_bytes()
                stored.unlink()
                yield f"{name} {way}", content


def safetensors_fields(path: Path) -> Cases:
    for name, content in safetensors_contents(path):
        yield name, lambda path, content=content: path.write_bytes(content)


def weights_fields(record: str) -> Callable[[Path], Cases]:
    """The weights of a head or model, and a record with the digest that fits."""

    def forge(path: Path) -> Cases:
        noted = path.with_name(record)
        own = content_of(noted)

        def apply(path: Path, content: bytes) -> None:
            path.write_bytes(content)
            reseal(noted, own | {"weights_sha256": hashlib.sha256(content).hexdigest()})

        yield "unchanged", lambda path: apply(path, path.read_bytes())
        for name, content in (*raw(path.read_bytes()), *safetensors_contents(path)):
            yield f"sealed {name}", lambda path, content=content: apply(path, content)

    return forge


def torch_fields(path: Path) -> Cases:
    """What training scripts, and others, put in a checkpoint."""
    state = torch.load(path, weights_only=True)
    first, tensor = next(iter(state.items()))
    loop: dict[str, Any] = {}
    loop["model"] = loop
    deep: Any = state
    for _ in range(200):
        deep = {"state_dict": deep}
    contents = {
        "nothing": None,
        "a number": 7,
        "a text": "x",
        "a list": [state],
        "an empty dictionary": {},
        "a tensor": tensor,
        "a loop": loop,
        "deep": deep,
        "no tensors": {"epoch": 3, "x": "y"},
        "empty wrapper": {"state_dict": {}},
        "numbered": dict(enumerate(state.values())),
        "odd keys": {(1, 2): tensor, None: tensor, True: tensor, **state},
        "wrappers of everything": {
            "model": 3,
            "state_dict": None,
            "net": "x",
            "module": [1],
            **state,
        },
    }
    names = ("", "\n\x1b[31m", "x" * 10**6, ".", "module.", "a." * 5000, f"{first}\0")
    contents |= {f"named {name[:9]!r}": {**state, name: tensor} for name in names}
    others = {
        "2^40 rows": torch.zeros(1).expand(2**40),
        "sparse": torch.eye(3).to_sparse(),
        "complex": tensor.to(torch.complex64),
        "integers": torch.ones(tensor.shape, dtype=torch.int64),
        "truths": torch.ones(tensor.shape, dtype=torch.bool),
        "nan": torch.full(tensor.shape, math.nan),
        "inf": torch.full(tensor.shape, math.inf),
        "1e300": torch.full(tensor.shape, 1e300, dtype=torch.float64),
        "nowhere": tensor.to("meta"),
        "half": tensor.half(),
        "eighth": tensor.to(torch.float8_e4m3fn),
        "no rows": tensor[:0],
        "a scalar": torch.tensor(1.0),
        "transposed": tensor.transpose(0, -1),
        "a text": "x",
        "nothing": None,
    }
    contents |= {f"{first} {way}": {**state, first: other} for way, other in others.items()}
    contents |= {f"more: {way}": {**state, "more": other} for way, other in others.items()}
    for name, content in contents.items():
        yield name, lambda path, content=content: torch.save(content, path)
    for name in (first, list(state)[-1]):
        yield (
            f"without {name}",
            lambda path, name=name: torch.save(
                {key: each for key, each in state.items() if key != name}, path
            ),
        )


ENDLESS = """
CREATE VIEW experiments AS
WITH RECURSIVE n(number) AS (SELECT 1 UNION ALL SELECT number + 1 FROM n)
SELECT number, '' created, 1.0 seconds, '{}' settings, '[]' folds, '{}' environment, '' key FROM n
"""


def log_fields(path: Path) -> Cases:
    """Each column of an experiment, and the schema of the database."""

    def ran(*statements: tuple[str, tuple[Any, ...]]) -> Callable[[Path], object]:
        def apply(path: Path) -> None:
            with (
                contextlib.suppress(sqlite3.Error),  # SQLite itself refuses some
                contextlib.closing(sqlite3.connect(path)) as database,
                database,
            ):
                for statement, values in statements:
                    database.execute(statement, values)

        return apply

    with contextlib.closing(sqlite3.connect(path)) as database:
        (texts,) = database.execute(
            "SELECT settings, folds, environment FROM experiments LIMIT 1"
        ).fetchall()
    plain = [
        0,
        -1,
        2**62,
        1.5,
        1e308,
        math.inf,
        "",
        "text",
        "\0",
        b"\xff\x00",
        "9" * 5000,
        "NaN",
        "1e999",
        "[" * DEEP,
    ]
    for column in ("created", "settings", "folds", "seconds", "environment", "key", "number"):
        for value in (
            *plain,
            "{}",
            "[]",
            "null",
            "7",
            '"x"',
            "[7]",
            "[{}]",
            '{"a": null}',
            "{" * DEEP,
        ):
            yield (
                f"{column} {value!r:.20}",
                ran((f"UPDATE experiments SET {column} = ? WHERE number = 1", (value,))),
            )
    for column, text in zip(("settings", "folds", "environment"), texts, strict=True):
        content = json.loads(text)
        for place in places(content):
            for wrong in (*JSONS, nested()):
                new = json.dumps(changed(content, place, wrong))
                yield (
                    f"{column} {place} {wrong!r:.20}",
                    ran((f"UPDATE experiments SET {column} = ? WHERE number = 1", (new,))),
                )
    for statement in (
        "DROP TABLE experiments",
        "ALTER TABLE experiments RENAME TO other",
        "ALTER TABLE experiments DROP COLUMN seconds",
        "ALTER TABLE experiments ADD COLUMN more TEXT",
        "DELETE FROM experiments",
        "PRAGMA user_version = 0",
        "PRAGMA user_version = 99",
        "PRAGMA application_id = 1",
    ):
        yield statement, ran((statement, ()))
    moved = ("ALTER TABLE experiments RENAME TO other", ())
    yield "an endless view", ran(moved, (ENDLESS, ()))


POLICIES = {
    "an alias": "- RandomApply: &a {transforms: [RandomHorizontalFlip]}\n- RandomApply: *a\n",
    "an alias bomb": "".join(
        f"a{level}: &a{level} [{', '.join([f'*a{level - 1}' if level else 'x'] * 9)}]\n"
        for level in range(12)
    ),
    "a merge bomb": "".join(
        f"a{level}: &a{level} {{<<: [{', '.join([f'*a{level - 1}' if level else '{x: 1}'] * 9)}]}}"
        "\n"
        for level in range(12)
    ),
    "an alias of itself": "&a [*a]",
    "an argument of itself": "- RandomHorizontalFlip: &a {p: *a}",
    "an unknown alias": "- *nothing",
    "code": "- !!python/object/apply:os.system [touch exploited]",
    "a tag": "- !!set {a}",
    "a date": "- RandomHorizontalFlip: {p: 2001-99-99}",
    "bytes": "- RandomHorizontalFlip: {p: !!binary x}",
    "documents": "- RandomHorizontalFlip\n---\n- RandomHorizontalFlip\n",
    "dashes": "- " * DEEP + "x",
    "questions": "? " * DEEP + "x",
    "digits": "- RandomHorizontalFlip: {p: " + "9" * 10_000 + "}",
    "seconds of base 60": "- RandomHorizontalFlip: {p: " + "1:" * 5000 + "1}",
    "many": "- RandomHorizontalFlip\n" * 50_000,
}


def policy_fields(_: Path) -> Cases:
    """Forms of YAML, classes and arguments."""
    contents = dict(POLICIES)
    for wrong in JSONS:
        if wrong is not GONE:
            text = json.dumps(wrong)
            contents |= {
                f"root {text[:20]}": text,
                f"step {text[:20]}": f"- {text}",
                f"name {text[:20]}": f"- ? {text}\n  : {{p: 1}}",
                f"arguments {text[:20]}": f"- RandomHorizontalFlip: {text}",
                f"p {text[:20]}": f"- RandomHorizontalFlip: {{p: {text}}}",
                f"scale {text[:20]}": f"- RandomResizedCrop: {{scale: {text}}}",
                f"transforms {text[:20]}": f"- RandomApply: {{transforms: {text}}}",
                f"degrees {text[:20]}": f"- EdgeAffine: {{degrees: {text}}}",
                f"smooth {text[:20]}": f"- EdgeElastic: {{shift: {text}}}",
            }
    for name in (
        "Lambda",
        "Compose",
        "Transform",
        "ToTensor",
        "FiveCrop",
        "RandomShortestSize",
        "no such",
        "__class__",
    ):
        contents[name] = f"- {name}"
    for name, text in contents.items():
        yield name, lambda path, text=text: path.write_text(text)


def toml_fields(_: Path) -> Cases:
    """Tables, keys and values of settings."""
    values = (
        "1",
        "-1",
        "1e400",
        "nan",
        "inf",
        "true",
        '""',
        '"\\u001b"',
        "[]",
        "{}",
        "[[1]]",
        "1979-05-27",
        "9" * 5000,
        "0x" + "f" * 500,
        '"x',
        '"a"\n"b"',
    )
    contents = {
        "deep arrays": "a = " + "[" * DEEP,
        "deep arrays, closed": "a = " + "[" * DEEP + "]" * DEEP,
        "deep tables": "[" + ".".join("a" * DEEP) + "]\n",
        "deep keys": ".".join("a" * DEEP) + " = 1\n",
        "deep inline tables": "a = " + "{a = " * DEEP + "1" + "}" * DEEP,
        "a key twice": "[default]\nseed = 1\nseed = 2\n",
        "a table twice": "[default]\n[default]\n",
        "cache is a value": "cache = 3\n",
        "cache ls is a value": "[cache]\nls = 3\n",
        "a list of tables": "[[default]]\nseed = 1\n",
        "an odd name": '["\\u001b"]\n',
        "an odd key": '[default]\n"\\u001b\\n" = 1\n',
    }
    for key in (
        "seed",
        "cache",
        "layer",
        "C",
        "balanced",
        "image_size",
        "cv",
        "clf",
        "no_such",
        "memory",
    ):
        contents |= {f"{key} = {value[:20]}": f"[default]\n{key} = {value}\n" for value in values}
    contents |= {f"table = {value[:20]}": f"default = {value}\n" for value in values}
    for name, text in contents.items():
        yield name, lambda path, text=text: path.write_text(text)


def line_fields(path: Path) -> Cases:
    """Lines of a text file."""
    whole = path.read_text()
    for text in TEXTS:
        yield (
            f"{text[:20]!r} at the end",
            lambda path, text=text: path.write_text(f"{whole}{text}\n", newline=""),
        )


POINTS = (
    "=",
    "= =",
    "tiny",
    "tiny =",
    "tiny = :",
    "tiny = a b",
    "tiny = os:system [x",
    "tiny = tiny_bases:tiny [",
    "[",
    "]",
    "[[a]]",
    "tiny = .:x",
    "tiny = tiny_bases:",
    "tiny = tiny_bases.no:x",
    "x" * 9000,
    "tiny = tiny_bases:tiny\ntiny = tiny_bases:tiny",
    "\x1b = tiny_bases:tiny",
    "tiny = tiny_bases:TRANSFORM",
    "tiny = json:loads",
    "tiny = sys:exit",
)


def point_fields(_: Path) -> Cases:
    for text in POINTS:
        yield (
            repr(text)[:40],
            lambda path, text=text: path.write_text(f"[bottleneck.bases]\n{text}\n"),
        )
    yield "no group", lambda path: path.write_text("tiny = tiny_bases:tiny\n")


def metadata_fields(_: Path) -> Cases:
    for text in (
        "",
        "Name:",
        "Name: \n",
        "Name: x\nName: y\n",
        "Metadata-Version: 99\n",
        "\nName: tiny\n",
        ": :",
        "Name: é\x1b\n",
    ):
        yield repr(text), lambda path, text=text: path.write_text(text)

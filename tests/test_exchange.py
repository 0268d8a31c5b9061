"""Export of features to plain files, and import from them. About 5 s."""

import csv
import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path

import h5py
import numpy as np
import pytest

from bottleneck import Cache, FrozenBase, ImageSet, extract_features, load_features, select_features
from bottleneck.errors import (
    CacheError,
    DataError,
    PathMissingError,
    UsageError,
)
from bottleneck.exchange import export_features, formats, import_array, import_features

ENDINGS = ["out.h5", "out.npz"]


@pytest.fixture
def cache(little, make_images) -> Cache:
    """A cache of maps of 12 images."""
    folder = make_images(cat=6, dög=6)
    base = FrozenBase(little, ["second"], weights="random")
    made = Cache("cache")
    extract_features(ImageSet.from_folder(folder), base, made)
    return made


def arrays(file: str) -> dict[str, np.ndarray]:
    if file.endswith(".npz"):
        with np.load(file) as content:
            return dict(content)
    with h5py.File(file) as content:
        return {
            key: data.asstr()[:] if data.dtype.kind == "S" else data[:]
            for key, data in content.items()
        }


@pytest.mark.parametrize("file", ENDINGS)
def test_an_exported_file_holds_features_paths_and_labels(cache, file):
    exported = export_features(cache, select_features(cache), file)
    features = load_features(cache)
    found = arrays(file)
    assert found["features"].dtype == np.float16
    assert found["features"].shape == (12, 16, 7, 7)
    assert np.array_equal(found["features"].reshape(12, -1).astype(np.float32), features.X)
    assert found["paths"].tolist() == features.paths.tolist()
    assert found["labels"].tolist() == features.y.tolist()
    assert found["splits"].tolist() == features.splits.tolist()
    assert found["digests"].tolist() == features.digests.tolist()
    assert (exported.images, exported.shape) == (12, [16, 7, 7])
    assert not list(Path().glob(".*partial"))


@pytest.mark.parametrize("file", ENDINGS)
def test_export_and_import_give_the_same_cache(cache, file):
    """The bank is the same, so extraction computes nothing; a second import adds nothing."""
    export_features(cache, select_features(cache), file)
    other = Cache("other")
    assert import_features(other, file).added == 12
    assert import_features(other, file).added == 0
    expected = load_features(cache)
    found = load_features(other, select_features(other, layer="second"))
    assert np.array_equal(found.X, expected.X)
    assert found.selection == expected.selection
    assert found.provenance == expected.provenance
    base = FrozenBase("little", ["second"], weights="random")
    assert extract_features(ImageSet.from_folder("data"), base, other).computed == 0


@pytest.mark.parametrize("file", ENDINGS)
def test_pooled_features_are_exported_but_not_imported(cache, file):
    selection = select_features(cache, pool="avg")
    export_features(cache, selection, file)
    assert np.array_equal(arrays(file)["features"], load_features(cache, selection).X)
    with pytest.raises(DataError, match="was pooled by avg at export"):
        import_features(Cache("other"), file)
    assert not Path("other").exists()


@pytest.mark.parametrize("file", ENDINGS)
def test_a_damaged_file_is_refused(cache, file):
    export_features(cache, select_features(cache), file)
    content = bytearray(Path(file).read_bytes())
    for place in (len(content) // 4, 3 * len(content) // 4, 2):
        damaged = content.copy()
        damaged[place] ^= 16
        Path(file).write_bytes(damaged)
        with pytest.raises(DataError, match="cannot be read as exported features"):
            import_features(Cache("other"), file)
    assert not Path("other").exists()


def test_a_foreign_file_is_refused():
    np.savez("other.npz", x=np.zeros(3))
    with h5py.File("other.h5", "w") as file:
        file["x"] = 1
    for name in ("other.npz", "other.h5"):
        with pytest.raises(DataError, match="cannot be read as exported features"):
            import_features(Cache("cache"), name)
    with pytest.raises(PathMissingError, match="no file 'gone.npz'"):
        import_features(Cache("cache"), "gone.npz")


def test_an_export_that_cannot_be_written(cache):
    with pytest.raises(UsageError, match="expected .h5, .hdf5 or .npz"):
        export_features(cache, select_features(cache), "out.txt")
    Path("file").touch()
    with pytest.raises(CacheError, match="cannot be written"):
        export_features(cache, select_features(cache), "file/out.npz")


def write_table(rows: list[dict[str, str]], file: str = "table.csv") -> str:
    with Path(file).open("w", newline="") as stream:
        table = csv.DictWriter(stream, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    return file


@pytest.fixture
def elsewhere(make_images) -> tuple[np.ndarray, list[dict[str, str]]]:
    """An array made elsewhere, with the rows of its table."""
    make_images(cat=6, dog=6)
    paths = sorted(Path("data").rglob("*.png"))
    rows = np.random.default_rng(0).random((12, 7)).astype(np.float32)
    np.save("rows.npy", rows)
    return rows, [{"path": str(path), "label": path.parent.name} for path in paths]


def test_an_array_made_elsewhere_is_joined_to_its_images(elsewhere):
    """By the images' bytes: a renamed image keeps its row."""
    rows, table = elsewhere
    imported = import_array(Cache("cache"), "rows.npy", write_table(table), model="mine")
    assert (imported.images, imported.added, imported.dtype) == (12, 12, "float32")
    cache = Cache("cache")
    features = load_features(cache, select_features(cache, model="mine"))
    assert np.array_equal(features.X, rows)
    assert features.y.tolist() == [row["label"] for row in table]
    assert set(features.splits) == {"train", "test"}
    found = ImageSet.from_folder("data")
    assert {item.digest for item in found.items} == set(features.digests)
    (bank,) = cache.banks()
    assert bank.info.weights_name == "imported"


def test_rows_go_by_a_digest_or_by_themselves_where_images_are_away(elsewhere):
    rows, table = elsewhere
    file = write_table(table)
    shutil.move("data", "away")
    with pytest.raises(PathMissingError, match="add a column digest, or .* `by_row"):
        import_array(Cache("cache"), "rows.npy", file, model="mine")
    import_array(Cache("by-row"), "rows.npy", file, model="mine", by_row=True)
    given = [{**row, "digest": f"{number:064x}"} for number, row in enumerate(table)]
    import_array(Cache("given"), "rows.npy", write_table(given), model="mine")
    for name in ("by-row", "given"):
        cache = Cache(name)
        assert np.array_equal(load_features(cache).X, rows)
    given[3]["digest"] = "3"
    with pytest.raises(UsageError, match="gives the digest '3'"):
        import_array(Cache("given"), "rows.npy", write_table(given), model="mine")


def test_invalid_arrays_and_tables_are_refused(elsewhere):
    rows, table = elsewhere
    file = write_table(table)
    cache = Cache("cache")
    np.save("short.npy", rows[:-1])
    with pytest.raises(UsageError, match="has 12 rows, but 'short.npy' has 11"):
        import_array(cache, "short.npy", file, model="mine")
    np.save("whole.npy", np.arange(12))
    np.save("objects.npy", np.array([{}, 1], object))
    Path("text.npy").write_text("not an array")
    for name in ("whole.npy", "objects.npy", "text.npy"):
        with pytest.raises(DataError, match="as an array|not an array of features"):
            import_array(cache, name, file, model="mine")
    with pytest.raises(PathMissingError, match="no file 'gone.npy'"):
        import_array(cache, "gone.npy", file, model="mine")
    with pytest.raises(PathMissingError, match="no table 'gone.csv'"):
        import_array(cache, "rows.npy", "gone.csv", model="mine")
    assert not cache.root.exists()
    np.save("nan.npy", np.where(rows > 0.9, np.nan, rows))
    with pytest.raises(DataError, match="contain nan, inf or values"):
        import_array(cache, "nan.npy", file, model="mine")
    with pytest.raises(UsageError, match="no column label"):
        import_array(cache, "rows.npy", write_table([{"path": "x"}]), model="mine")
    for names in ({"model": "a/b"}, {"model": ""}, {"model": "m", "layer": ".."}):
        with pytest.raises(UsageError, match="is not a valid name"):
            import_array(cache, "rows.npy", write_table(table), **names)
    with pytest.raises(UsageError, match="'../x' is not a valid name"):
        import_array(cache, "rows.npy", file, model="mine", image_set="../x")
    with pytest.raises(UsageError, match="`axes` 'CHW' does not fit rows of shape"):
        import_array(cache, "rows.npy", file, model="mine", axes="CHW")
    assert not cache.root.exists()


def test_a_corrected_table_takes_effect(elsewhere):
    """Rows use the table of their own import, not an earlier one."""
    rows, table = elsewhere
    cache = Cache("cache")
    slid = [{**row, "path": other["path"]} for row, other in zip(table, table[::-1], strict=True)]
    import_array(cache, "rows.npy", write_table(slid), model="mine", image_set="slid")
    import_array(cache, "rows.npy", write_table(table), model="mine", image_set="right")
    features = load_features(cache, select_features(cache, image_set="right"))
    assert features.paths.tolist() == [row["path"] for row in table]
    assert np.array_equal(features.X, rows)


def test_equal_images_have_equal_rows(elsewhere):
    rows, table = elsewhere
    table[9]["path"] = table[0]["path"]
    with pytest.raises(DataError, match="rows 0 and 9 of 'rows.npy' belong to the same image"):
        import_array(Cache("cache"), "rows.npy", write_table(table), model="mine")
    assert not Path("cache").exists()
    rows[9] = rows[0]
    np.save("rows.npy", rows)
    assert import_array(Cache("cache"), "rows.npy", write_table(table), model="mine").added == 11


def test_digests_and_files_must_agree(elsewhere):
    _, table = elsewhere
    given = [{**row, "digest": ""} for row in table]
    digest = hashlib.sha256(Path(table[2]["path"]).read_bytes()).hexdigest()
    given[2]["digest"] = digest.upper()
    assert import_array(Cache("cache"), "rows.npy", write_table(given), model="mine").added == 12
    given[3]["digest"] = digest
    with pytest.raises(UsageError, match="expected the SHA-256 of that image"):
        import_array(Cache("cache"), "rows.npy", write_table(given), model="mine")


def test_another_set_of_that_name_is_not_replaced(elsewhere):
    rows, table = elsewhere
    cache = Cache("cache")
    import_array(cache, "rows.npy", write_table(table, "data.csv"), model="mine")
    table[0]["label"] = "dog"
    np.save("rows.npy", rows + 1)
    before = Path("cache/sets/data.csv").read_bytes()
    with pytest.raises(UsageError, match="has an image set 'data' with other images"):
        import_array(cache, "rows.npy", write_table(table, "data.csv"), model="mine")
    assert Path("cache/sets/data.csv").read_bytes() == before
    import_array(cache, "rows.npy", "data.csv", model="mine", image_set="other")
    assert Path("cache/sets/data.csv").read_bytes() == before


def test_imported_maps_can_be_pooled(elsewhere):
    _, table = elsewhere
    maps = np.random.default_rng(0).random((12, 2, 3, 5)).astype(np.float16)
    np.save("maps.npy", maps)
    cache = Cache("cache")
    import_array(cache, "maps.npy", write_table(table), model="keras", axes="HWC")
    features = load_features(cache, select_features(cache, pool="avg"))
    assert np.allclose(features.X, maps.astype(np.float32).mean(axis=(1, 2)))


def test_features_of_another_version_are_not_mixed_in(cache):
    """The exported canary is compared with the bank's."""
    export_features(cache, select_features(cache), "out.h5")
    (bank,) = cache.banks()
    info = bank.info
    info.layers["second"].canary[0][0] *= 2
    bank.describe(info)
    with pytest.raises(CacheError, match="reference features .* differ from those computed now"):
        import_features(cache, "out.h5")


@pytest.mark.parametrize(
    "kind", ["name", "fingerprint", "lengths", "format", "digests", "splits", "dtype"]
)
def test_an_edited_file_cannot_write_elsewhere(cache, kind):
    """Also where its digest was made to match."""
    export_features(cache, select_features(cache), "out.npz")
    content = arrays("out.npz")
    provenance = json.loads(str(content.pop("provenance")))
    del content["sha256"]
    if kind == "name":
        provenance["selection"]["image_set"] = "../../evil"
    elif kind == "fingerprint":
        provenance["selection"]["fingerprint"] = "/../../x"
    elif kind == "format":
        provenance["format"] = 99
    elif kind in {"digests", "splits"}:
        content[kind] = np.char.replace(content[kind], content[kind][3], "x" * 64)
    elif kind == "dtype":
        content["features"] = content["features"].astype("U5")
    else:
        content["features"] = content["features"][:-2]
    text = json.dumps(provenance)
    texts = {key: column.tolist() for key, column in content.items() if key != "features"}
    seal = formats._seal([content["features"]], texts, text)
    np.savez("edited.npz", provenance=np.array(text), sha256=np.array(seal), **content)
    with pytest.raises((DataError, UsageError)):
        import_features(Cache("deep/other"), "edited.npz")
    assert not Path("deep").exists()


def test_another_array_has_another_bank(elsewhere):
    rows, table = elsewhere
    np.save("other.npy", rows + 1)
    cache = Cache("cache")
    for name in ("rows.npy", "other.npy"):
        import_array(cache, name, write_table(table), model="mine")
    assert len(cache.banks()) == 2
    assert np.array_equal(load_features(cache).X, rows + 1)


def test_the_record_of_an_import_says_where_it_came_from(elsewhere):
    _, table = elsewhere
    import_array(Cache("cache"), "rows.npy", write_table(table), model="mine")
    (file,) = Path("cache/runs").iterdir()
    assert json.loads(file.read_text())["imported_from"] == "rows.npy"


def test_what_helps_for_imported_features_is_another_import(bottleneck, elsewhere):
    """They have no network: no message names a command that would have to compute them."""
    command = ("cache", "import", "rows.npy", "--table", write_table(elsewhere[1]))
    command += ("--model", "mine")
    assert bottleneck(*command).code == 0
    assert bottleneck("fit-head", "--C", 1).code == 0
    deep = bottleneck("cache", "verify", "--deep").err
    assert "could not be recomputed: they were imported, and no network of theirs is known" in deep
    images = sorted(map(str, Path("data").rglob("*.png")))
    assert bottleneck("predict", *images).code == 0
    assert bottleneck("cache", "prune", "--model", "mine", "--imported").code == 0
    for using in (["fit-head"], ["sweep"], ["advise"], ["evaluate"], ["cache", "export", "x.h5"]):
        told = bottleneck(*using).err
        assert "run 'bottleneck cache import' for them" in told, using
        assert "bottleneck extract" not in told, using
    for using in (["predict", images[0]], ["finetune", "--unfreeze", "features"]):
        assert "imported features of 'mine', whose network is unknown" in bottleneck(*using).err
    assert bottleneck(*command).code == 0
    assert bottleneck("evaluate").code == 0
    part = next(Path("cache").glob("*/parts/*.h5"))
    part.write_bytes(part.read_bytes()[:-9])
    for using in (["evaluate"], ["cache", "verify"]):
        told = bottleneck(*using).err
        assert "or 'bottleneck cache import' for imported features" in told, using
    Cache("cache").set_file("table").write_text("x\n")
    assert "or 'bottleneck cache import' for imported features" in bottleneck("evaluate").err


def test_what_a_user_names_as_output_is_written_to_and_not_replaced(bottleneck, elsewhere):
    """A device, a pipe, and a link to a file."""
    table = write_table(elsewhere[1])
    assert bottleneck("cache", "import", "rows.npy", "--table", table, "--model", "m").code == 0
    assert bottleneck("fit-head", "--C", 1).code == 0
    commands = {
        ".csv": ("evaluate", "--errors"),
        ".npz": ("cache", "export"),
        ".h5": ("cache", "export"),
        ".jsonl": ("predict", "data", "--output"),
        ".png": ("evaluate", "--picture"),
    }
    for ending, command in commands.items():
        pipe, null, link = (f"{name}{ending}" for name in ("pipe", "null", "link"))
        os.mkfifo(pipe)
        Path(null).symlink_to("/dev/null")
        Path(link).symlink_to(f"file{ending}")
        reader = subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE)
        try:
            for file in (pipe, null, link):
                finished = bottleneck(*command, file)
                assert finished.code == 0, (command, finished.err)
            received, _ = reader.communicate(timeout=10)
        finally:
            reader.kill()
            reader.wait()
        assert Path(pipe).is_fifo()
        assert str(Path(null).readlink()) == "/dev/null"
        assert Path(link).is_symlink()
        content = Path(f"file{ending}").read_bytes()
        assert len(received) == len(content) > 0, ending
        assert received[:4] == content[:4]

"""Features out of the cache into plain files, and in from them."""

import csv
import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from bottleneck import Cache, FrozenBase, ImageSet, extract_features, load_features, select_features
from bottleneck.errors import (
    CacheError,
    DataError,
    FeatureOverflowError,
    PathMissingError,
    UsageError,
)
from bottleneck.exchange import export_features, import_array, import_features

ENDINGS = ["out.h5", "out.npz"]


@pytest.fixture
def cache(make_images) -> Cache:
    """A cache of maps of 12 images."""
    folder = make_images(cat=6, dög=6)
    base = FrozenBase("squeezenet1_1", ["features.12"], weights="random", image_size=(64, 64))
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
    features = load_features(cache, select_features(cache))
    found = arrays(file)
    assert found["features"].dtype == np.float16
    assert found["features"].shape == (12, 512, 3, 3)
    assert np.array_equal(found["features"].reshape(12, -1).astype(np.float32), features.X)
    assert found["paths"].tolist() == features.paths.tolist()
    assert found["labels"].tolist() == features.y.tolist()
    assert found["splits"].tolist() == features.splits.tolist()
    assert found["digests"].tolist() == features.digests.tolist()
    assert (exported.images, exported.shape) == (12, [512, 3, 3])
    assert not list(Path().glob(".*partial"))


@pytest.mark.parametrize("file", ENDINGS)
def test_out_and_in_again_is_the_same_cache(cache, file):
    """The very bank, so that extraction finds all there; and a second import adds nothing."""
    export_features(cache, select_features(cache), file)
    other = Cache("other")
    assert import_features(other, file).added == 12
    assert import_features(other, file).added == 0
    expected = load_features(cache, select_features(cache))
    found = load_features(other, select_features(other, layer="features.12"))
    assert np.array_equal(found.X, expected.X)
    assert found.selection == expected.selection
    assert found.provenance == expected.provenance
    base = FrozenBase("squeezenet1_1", ["features.12"], weights="random", image_size=(64, 64))
    assert extract_features(ImageSet.from_folder("data"), base, other).computed == 0


@pytest.mark.parametrize("file", ENDINGS)
def test_pooled_features_go_out_but_not_in(cache, file):
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
    for place in (len(content) // 2, 3 * len(content) // 4, 2):
        damaged = content.copy()
        damaged[place] ^= 16
        Path(file).write_bytes(damaged)
        with pytest.raises(DataError, match="cannot be read as exported features"):
            import_features(Cache("other"), file)
    assert not Path("other").exists()


def test_a_file_of_others_is_refused():
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
    assert bank.info["weights_name"] == "imported"


def test_rows_go_by_a_digest_or_by_themselves_where_images_are_away(elsewhere):
    rows, table = elsewhere
    file = write_table(table)
    shutil.move("data", "away")
    with pytest.raises(PathMissingError, match="add a column digest, or .* --by-row"):
        import_array(Cache("cache"), "rows.npy", file, model="mine")
    import_array(Cache("by-row"), "rows.npy", file, model="mine", by_row=True)
    given = [{**row, "digest": f"{number:064x}"} for number, row in enumerate(table)]
    import_array(Cache("given"), "rows.npy", write_table(given), model="mine")
    for name in ("by-row", "given"):
        cache = Cache(name)
        assert np.array_equal(load_features(cache, select_features(cache)).X, rows)
    given[3]["digest"] = "3"
    with pytest.raises(UsageError, match="has the digest '3'"):
        import_array(Cache("given"), "rows.npy", write_table(given), model="mine")


def test_arrays_and_tables_that_cannot_be(elsewhere):
    rows, table = elsewhere
    file = write_table(table)
    cache = Cache("cache")
    np.save("short.npy", rows[:-1])
    with pytest.raises(UsageError, match="has 12 rows and 'short.npy' has 11"):
        import_array(cache, "short.npy", file, model="mine")
    np.save("whole.npy", np.arange(12))
    np.save("objects.npy", np.array([{}, 1], object))
    Path("text.npy").write_text("no array")
    for name in ("whole.npy", "objects.npy", "text.npy"):
        with pytest.raises(DataError, match="as an array|no array of features"):
            import_array(cache, name, file, model="mine")
    with pytest.raises(PathMissingError, match="no file 'gone.npy'"):
        import_array(cache, "gone.npy", file, model="mine")
    with pytest.raises(PathMissingError, match="no table 'gone.csv'"):
        import_array(cache, "rows.npy", "gone.csv", model="mine")
    assert not cache.root.exists()
    np.save("nan.npy", np.where(rows > 0.9, np.nan, rows))
    with pytest.raises(FeatureOverflowError, match="nan or inf"):
        import_array(cache, "nan.npy", file, model="mine")
    with pytest.raises(UsageError, match="no column label"):
        import_array(cache, "rows.npy", write_table([{"path": "x"}]), model="mine")


def test_another_array_has_another_bank(elsewhere):
    rows, table = elsewhere
    np.save("other.npy", rows + 1)
    cache = Cache("cache")
    for name in ("rows.npy", "other.npy"):
        import_array(cache, name, write_table(table), model="mine")
    assert len(cache.banks()) == 2
    assert np.array_equal(load_features(cache, select_features(cache)).X, rows + 1)


def test_the_record_of_an_import_says_where_it_came_from(elsewhere):
    _, table = elsewhere
    import_array(Cache("cache"), "rows.npy", write_table(table), model="mine")
    (file,) = Path("cache/runs").iterdir()
    assert json.loads(file.read_text())["imported_from"] == "rows.npy"

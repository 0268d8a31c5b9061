"""The content of reports, and the files that are written. About 15 s.

``test_report_page`` opens them in a browser.
"""

import json
import re
import sqlite3
import sys
import webbrowser
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import read_only
from PIL import Image

from bottleneck import Cache, FrozenBase, ImageSet, extract_features, fit_head, load_features
from bottleneck.errors import DamagedError, UsageError
from bottleneck.exchange import import_array
from bottleneck.features import join_layers, matching_layers
from bottleneck.images import ImageItem
from bottleneck.report import Card, make_report, thumbnails, write_gallery, write_report
from bottleneck.report import thumbnails_of as small
from bottleneck.report.galleries import suspected
from bottleneck.report.maps import place_on_map

LABELS = {"cat": 24, "dog": 24, "owl": 12}


def extracted(base: str, images: ImageSet) -> Cache:
    cache = Cache("cache")
    extract_features(images, FrozenBase(base, "flat", weights="random:0"), cache)
    return cache


@pytest.fixture
def cached(make_images, little) -> Cache:
    make_images(**LABELS)
    return extracted(little, ImageSet.from_folder("data"))


@pytest.fixture
def heads(cached) -> dict[str, object]:
    features = load_features(cached)
    return {"strong": fit_head(features, "lda"), "weak": fit_head(features, "softmax", C=1e-6)}


def content_of(file: str | Path) -> dict:
    """The images in a page, as its script reads them."""
    text = Path(file).read_text()
    found = re.search(
        r'<script type="application/json" id="content">(.*?)</script>', text, re.DOTALL
    )
    return json.loads(found[1])


def test_the_images_of_a_cell_are_as_many_as_it_says(cached, heads):
    report = make_report(cached, heads)
    for place, head in enumerate(report.heads):
        names = [each.label for each in head.evaluation.classes]
        counts = np.zeros((3, 3), int)
        for each in report.images:
            given = each.given[place]
            if each.item.split == "test":
                counts[names.index(each.item.label), names.index(given.label)] += 1
                assert given.right == (each.item.label == given.label)
        assert counts.tolist() == head.evaluation.confusion
        assert sum(each.predictions for each in head.after) == head.evaluation.images
    second = report.heads[1]
    gain = second.evaluation.accuracy - report.heads[0].evaluation.accuracy
    assert second.difference.gain == pytest.approx(gain)
    low, high = second.difference.interval
    assert low < gain < high


def test_the_page_has_every_image_once_and_escapes_all_names(cached, heads):
    names = {"</script><b>": heads["strong"]}
    write_report(make_report(cached, names), "report.html")
    content, text = content_of("report.html"), Path("report.html").read_text()
    assert len(content["images"]) == sum(LABELS.values())
    assert content["heads"] == ["</script><b>"]
    assert "<b>" not in text
    assert text.count("</script>") == 2


def test_thumbnails_are_made_once(cached, heads, monkeypatch):
    read = []
    real = thumbnails.read_file
    monkeypatch.setattr(thumbnails, "read_file", lambda item: read.append(item) or real(item))
    first = make_report(cached, heads)
    assert len(read) == sum(LABELS.values())
    for path in Path("data").rglob("*.png"):
        path.unlink()
    again = make_report(cached, heads)
    assert len(read) == sum(LABELS.values())
    assert again.thumbnails == first.thumbnails
    (cached.root / "thumbnails.sqlite").unlink()
    gone = make_report(cached, heads)
    assert not any(each.jpeg for each in gone.thumbnails.values())
    assert "60 images have no thumbnail" in gone.notes[-1]
    assert "No such file or directory" in gone.notes[-1]


def test_a_file_of_somebody_else_is_not_touched(cached):
    items = ImageSet.read_csv(cached.set_file("data")).items[:2]
    file = cached.root / "thumbnails.sqlite"
    for content in (b"mine", None):
        if content:
            file.write_bytes(content)
        else:
            file.unlink()
            with sqlite3.connect(file) as theirs:
                theirs.execute("CREATE TABLE mine (a)")
            theirs.close()
        before = file.read_bytes()
        assert all(each.jpeg for each in small(items, cached).values())
        assert file.read_bytes() == before
    file.unlink()
    file.symlink_to("elsewhere")
    assert all(each.jpeg for each in small(items, cached).values())
    assert not Path("cache/elsewhere").exists()


def test_a_cache_that_can_only_be_read_keeps_no_thumbnails(cached):
    items = ImageSet.read_csv(cached.set_file("data")).items
    small(items[:2], cached)
    with read_only(cached.root):
        assert all(each.jpeg for each in small(items[:4], cached).values())


def test_a_sample_has_the_worst_errors_and_says_so(cached, heads):
    whole = make_report(cached, {"weak": heads["weak"]})
    wrong = [
        each for each in whole.images if each.item.split == "test" and each.given[0].right is False
    ]
    worst = max(wrong, key=lambda each: each.given[0].confidence)
    report = make_report(cached, {"weak": heads["weak"]}, images=10)
    assert len(report.images) == 10
    assert report.is_sample
    assert worst.item in [each.item for each in report.images]
    write_report(report, "report.html")
    page = Path("report.html").read_text()
    assert "A sample of 10 of 60 images" in page
    # A cell of the matrix asks for images that were given a class, also where none is shown.
    (given,) = re.findall(r'<select id="f-predicted">(.*?)</select>', page)
    assert set(re.findall(r">([a-z]+)</option>", given)) == {"all", *LABELS}
    write_report(report, "report.json")
    assert json.loads(Path("report.json").read_text())["is_sample"]
    write_report(report, "report.md")
    assert "from a sample: 10 of 60 images" in Path("report.md").read_text()
    everything = make_report(cached, {"weak": heads["weak"]}, images=10, everything=True)
    assert len(everything.images) == 60


def test_what_an_extraction_left_out_is_said(make_images, little):
    """Small classes, files and folders."""
    make_images(**LABELS, rare=1)
    for name in ("data/cat/.hidden.png", "data/notes.txt"):
        Path(name).write_text("x")
    Path("data/empty").mkdir()
    extracted(little, ImageSet.from_folder("data", min_images=2))
    report = make_report("cache")
    assert report.left_out == [
        "classes left out for their number of images: rare (1)",
        "files left out: .txt (1), hidden (1)",
        "folders without images: data/empty/",
    ]
    for file in ("report.html", "report.md"):
        write_report(report, file)
        assert all(each in Path(file).read_text() for each in report.left_out)


def test_a_folder_is_replaced_whole_and_others_are_refused(cached, heads):
    report = make_report(cached, heads)
    for _ in range(2):
        index = write_report(report, "all", "folder")
        assert len(list(Path("all/thumbnails").iterdir())) == 60
        sources = [each[1] for each in content_of(index)["images"]]
        assert all(Path("all/thumbnails", each).is_file() for each in sources)
    site = Path("site")
    site.mkdir()
    (site / "index.html").write_text("<!doctype html><title>mine</title>")
    for folder in ("data", "site"):
        sentence = f"'{folder}' already exists and is not the folder of a report"
        with pytest.raises(UsageError, match=sentence):
            write_report(report, folder, "folder")
    assert (site / "index.html").read_text().endswith("mine</title>")
    with pytest.raises(UsageError, match="'data' already exists and is not the folder of a report"):
        write_report(report, "data", "folder")
    with pytest.raises(UsageError, match="is a folder, but a report is a file"):
        write_report(report, "data", "html")
    with pytest.raises(UsageError, match="cannot be written as 'report.doc'; expected a name in"):
        write_report(report, "report.doc")


@pytest.mark.parametrize("how", ["pca", "lda"])
def test_the_map_is_the_same_each_time(cached, heads, how):
    first, second = (make_report(cached, heads, map=how) for _ in range(2))
    places = np.array([each.place for each in first.images])
    assert np.array_equal(places, [each.place for each in second.images])
    assert places.min(axis=0).tolist() == [0, 0]
    assert places.max(axis=0).tolist() == [1, 1]


def test_layers_of_any_scale_count_alike_on_a_map(cached):
    features, generator = load_features(cached), np.random.default_rng(0)
    parts = [generator.normal(size=(len(features), d)).astype(np.float32) for d in (9, 4)]
    for how in ("pca", "lda"):
        first, other = (
            place_on_map(
                replace(features, X=np.hstack([scale * parts[0], parts[1]]), widths=(9, 4)), how
            )
            for scale in (1, 2**10)
        )
        assert np.allclose(first[1], other[1], atol=1e-4)


def separation(report) -> float:
    """The distance of the means of two classes on the best axis, in standard deviations."""
    train = [each for each in report.images if each.item.split == "train"]
    places, cats = (
        np.array([e.place for e in train]),
        np.array([e.item.label == "cat" for e in train]),
    )
    gaps = np.abs(places[cats].mean(axis=0) - places[~cats].mean(axis=0))
    return (gaps / places[cats].std(axis=0)).max()


def test_discriminants_of_two_classes_and_of_none(make_images, little):
    make_images(cat=16, dog=16)
    cache = extracted(little, ImageSet.from_folder("data"))
    report = make_report(cache, map="lda")
    assert report.map.axes == ("discriminant 1", "component 1")
    assert separation(report) > 1.2 * separation(make_report(cache))
    extract_features(
        ImageSet.from_paths(["data"], name="plain"),
        FrozenBase(little, "flat", weights="random:0"),
        cache,
    )
    with pytest.raises(UsageError, match="`map=lda` needs one class for each image"):
        make_report(cache, image_set="plain", map="lda")
    assert make_report(cache, image_set="plain").summary.classes == []


def test_a_head_that_cannot_be_evaluated_says_why(make_images, little):
    for split in ("train", "val"):
        make_images(f"data/{split}", cat=6, dog=6, seed=len(split))
    cache = extracted(little, ImageSet.from_folder("data"))
    head = fit_head(load_features(cache), "lda")
    report = make_report(cache, {"h": head})
    assert "has no test images" in report.heads[0].problem
    assert report.heads[0].problem.endswith("and fit again, or choose another with --split")
    assert report.heads[0].problem in report.notes[0]
    assert all(each.given[0] for each in report.images)
    write_report(report, "report.html")
    assert "Not evaluated: image set" in Path("report.html").read_text()
    assert make_report(cache, {"h": head}, split="val").heads[0].evaluation.split == "val"


def counts_of(answers) -> dict[str, int]:
    return {name: getattr(answers, name) for name in ("right", "missed", "false")}


def test_images_with_several_classes(make_images, little):
    make_images(cat=20, dog=20)
    labels = ["cat;indoors", "dog", "cat", "dog;indoors"]
    paths = sorted(map(str, Path("data").rglob("*.png")))
    rows = [f"{path},{labels[number % 4]}" for number, path in enumerate(paths)]
    Path("set.csv").write_text("\n".join(["path,label", *rows]))
    cache = extracted(little, ImageSet.open("set.csv"))
    report = make_report(cache, {"h": fit_head(load_features(cache), "logreg", C=1.0)})
    assert report.heads[0].evaluation.confusion is None
    test = [each for each in report.images if each.item.split == "test"]
    assert np.mean([each.given[0].right for each in test]) == report.heads[0].evaluation.accuracy
    for answers, metrics in zip(
        report.heads[0].answers, report.heads[0].evaluation.classes, strict=True
    ):
        has = [answers.label in each.item.label.split(";") for each in test]
        given = [answers.label in each.given[0].label.split(";") for each in test]
        pairs = list(zip(has, given, strict=True))
        assert answers.right == pairs.count((True, True))
        assert answers.missed == pairs.count((True, False))
        assert answers.false == pairs.count((False, True))
        assert metrics.recall == answers.right / metrics.images
    write_report(report, "report.md")
    first = report.heads[0].answers[0]
    assert f"| {first.right} | {first.missed} | {first.false} |" in Path("report.md").read_text()
    write_report(report, "report.json")
    content = json.loads(Path("report.json").read_text())["heads"][0]
    assert content["answers"][0] == {"label": "cat", **counts_of(first)}
    write_report(report, "report.html")
    content = content_of("report.html")
    assert {len(each[3]) for each in content["images"]} == {1, 2}


def test_a_head_on_joined_layers(make_images, little):
    make_images(cat=16, dog=16)
    cache = Cache("cache")
    base = FrozenBase(little, ["first_relu", "flat"], weights="random:0", pool="avg")
    extract_features(ImageSet.from_folder("data"), base, cache)
    features = load_features(cache, join_layers(matching_layers(cache)))
    report = make_report(cache, {"both": fit_head(features, "lda")})
    assert len(report.sources) == 2
    assert "little flat, each layer scaled to unit length. They" in report.map.sentence
    assert "--layer first_relu --layer flat" in report.commands[-2]
    assert "--join" in report.commands[-2]
    write_report(report, "report.html")


def test_heads_on_different_layers_are_repeated_from_their_extractions(make_images, little):
    make_images(cat=16, dog=16)
    cache = Cache("cache")
    for layer in ("first_relu", "flat"):
        base = FrozenBase(little, [layer], weights="random:0", pool="avg")
        extract_features(ImageSet.from_folder("data"), base, cache)
    features = {layer: load_features(cache, layer=layer) for layer in ("first_relu", "flat")}
    heads = {layer: fit_head(own, "lda") for layer, own in features.items()}
    report = make_report(cache, heads, heads_folder="mine", images=50, map="lda")
    assert [each.facts["layer"] for each in report.sources] == ["first_relu", "flat"]
    one, other, *fits, last = report.commands
    assert "--layer first_relu" in one
    assert "--layer flat" in other
    assert all("--heads mine" in each for each in (*fits, last))
    assert "--map lda --images 50" in last


def test_features_that_are_all_the_same_have_no_map(make_images):
    make_images(cat=8, dog=8)
    paths = sorted(map(str, Path("data").rglob("*.png")))
    table = [f"{path},{Path(path).parent.name},train" for path in paths]
    Path("set.csv").write_text("\n".join(["path,label,split", *table]))
    np.save("rows.npy", np.ones((16, 4), np.float32))
    import_array(Cache("cache"), "rows.npy", "set.csv", model="m", layer="rows")
    for how in ("pca", "lda"):
        assert make_report("cache", map=how, suspects=False).map is None


def test_outliers_and_look_alikes_need_no_labels(make_images, little):
    make_images("pile", cat=30)
    features = load_features(extracted(little, ImageSet.from_paths(["pile/cat"])))
    X = np.random.default_rng(0).normal(1, 0.5, (30, 8))
    X[3], X[6] = -1, X[5] + 0.0001
    notes = []
    galleries = suspected(replace(features, X=X.astype(np.float32)), None, notes)
    found = {each.name: each.groups for each in galleries}
    assert not notes
    assert found["outliers"][0][0].item.path == features.paths[3]
    assert "class" not in found["outliers"][0][0].facts
    pairs = [{card.item.path for card in group} for group in found["look-alikes"]]
    assert any({features.paths[5], features.paths[6]} <= each for each in pairs)


def test_identical_images_are_shown_as_groups(make_images, little):
    make_images("data/train", cat=8, dog=8)
    make_images("data/test", cat=4, dog=4, seed=1)
    copy = Path("data/train/cat/000.png").read_bytes()
    for path in ("data/train/dog/x.png", "data/test/cat/y.png"):
        Path(path).write_bytes(copy)
    cache = extracted(little, ImageSet.from_folder("data"))
    report = make_report(cache, {"h": fit_head(load_features(cache), "lda")})
    found = [each.name for each in report.galleries]
    assert found[:3] == ["duplicates", "conflicts", "leaks"]
    (group,) = report.galleries[0].groups
    assert [Path(each.item.path).name for each in group] == ["y.png", "000.png", "x.png"]
    leaked = [each for each in report.images if each.item.path.endswith("y.png")]
    assert leaked[0].given[0].right is None
    assert report.heads[0].evaluation.leaks == 1


def test_wrong_labels_and_look_alikes_are_shown(make_images):
    make_images(cat=30, dog=30)
    paths = sorted(map(str, Path("data").rglob("*.png")))
    labels = ["cat"] * 30 + ["dog"] * 30
    labels[3] = "dog"
    table = [f"{path},{label},train" for path, label in zip(paths, labels, strict=True)]
    Path("set.csv").write_text("\n".join(["path,label,split", *table]))
    rows = np.repeat(np.eye(8)[:2], 30, axis=0) + np.random.default_rng(0).normal(0, 0.3, (60, 8))
    rows[41] = rows[40] + 0.001
    np.save("rows.npy", rows.astype(np.float32))
    cache = Cache("cache")
    import_array(cache, "rows.npy", "set.csv", model="m", layer="rows")
    head = fit_head(load_features(cache), "lda")
    report = make_report(cache, {"h": head})
    found = {each.name: each for each in report.galleries}
    suspect = found["suspects"].groups[0][0]
    assert suspect.item.path == paths[3]
    assert suspect.facts["suggested"] == "cat"
    alike = [{card.item.path for card in group} for group in found["look-alikes"].groups]
    assert {paths[40], paths[41]} in alike
    assert not make_report(cache, {"h": head}, suspects=False).galleries
    np.save("rows.npy", np.abs(rows).astype(np.float32) + 10)
    import_array(cache, "rows.npy", "set.csv", model="n", layer="rows", image_set="other")
    close = make_report(cache, image_set="other")
    assert "look-alikes" not in [each.name for each in close.galleries]
    assert any("no look-alikes are shown of 60 images" in each for each in close.notes)


def test_the_other_forms_have_the_same_content(cached, heads):
    report = make_report(cached, {"a|b <i>": heads["strong"]})
    write_report(report, "report.md")
    text = Path("report.md").read_text()
    assert "# a\\|b &lt;i&gt;" in text
    assert "    bottleneck fit-head --set data --model little --layer flat --clf lda" in text
    write_report(report, "report.json")
    content = json.loads(Path("report.json").read_text())
    accuracy = report.heads[0].evaluation.accuracy
    assert content["heads"][0]["evaluation"]["accuracy"] == accuracy
    assert f"{accuracy:.4f}" in text
    for each in report.heads[0].evaluation.classes:
        low, high = each.recall_interval
        assert low <= each.recall <= high
        assert f"{each.recall:.4f} ({low:.4f} to {high:.4f})" in text
    write_report(report, "report.html")
    assert f"{low:.3f} to {high:.3f}" in Path("report.html").read_text()
    wrong = report.wrong(0)
    assert len(wrong) == sum(
        each.item.split == "test" and not each.given[0].right for each in report.images
    )
    assert all(each.item.path in text for each in wrong)
    assert len(content["images"]) == 60


def test_the_commands_to_repeat_it_do(bottleneck, cached):
    name = {"mine": fit_head(load_features(cached), "softmax", C=0.01, balanced=True)}
    report = make_report(cached, name)
    extract, fit, made = report.commands
    assert extract.startswith("bottleneck extract --data data --set data --model little")
    finished = bottleneck(*fit.split()[1:])
    assert finished.code == 0, finished.err
    finished = bottleneck(*made.split()[1:])
    assert finished.code == 0, finished.err
    Path("again.json").unlink(missing_ok=True)
    assert bottleneck("report", "--head", "mine", "--output", "again.json").code == 0
    again = json.loads(Path("again.json").read_text())["heads"][0]
    assert again["evaluation"]["log_loss"] == pytest.approx(report.heads[0].evaluation.log_loss)


def test_a_gallery_is_a_page_of_its_own(make_images):
    make_images(cat=3)
    paths = sorted(Path("data/cat").iterdir())
    items = [*ImageSet.from_paths(["data"]).items, ImageItem("gone.png", "ab" * 32)]
    cards = [Card(item, {"score": "0.50", "class": "<cat>"}) for item in items]
    write_gallery("gallery.html", "Suspects", [cards[:2], cards[2:3], cards[3:]], sentence="Odd.")
    text = Path("gallery.html").read_text()
    assert text.count("<figure") == 4
    assert text.count("data:image/jpeg") == 3
    assert all(path.name in text for path in paths)
    assert "&lt;cat&gt;" in text
    assert "No such file or directory" in text
    assert "script-src &#39;none&#39;" in text
    with pytest.raises(UsageError, match="a gallery cannot be written as 'gallery.md'"):
        write_gallery("gallery.md", "Suspects", [])


def test_thumbnails_know_the_sizes_of_images():
    Path("data").mkdir()
    Image.new("RGB", (400, 300), "red").save("data/a.png")
    Image.new("RGB", (20, 10), "red").save("data/b.png")
    found = {each.width: each for each in small(ImageSet.from_paths(["data"]).items).values()}
    assert found[400].height == 300
    assert found[20].size == Path("data/b.png").stat().st_size


def test_without_matplotlib_the_page_says_so(cached, monkeypatch):
    head = fit_head(load_features(cached), "mlp", hidden=4, epochs=2, device="cpu")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    report = make_report(cached, {"net": head})
    assert "not drawn: drawing a picture needs matplotlib" in report.heads[0].epochs.alt
    write_report(report, "report.html")
    assert "needs matplotlib" in Path("report.html").read_text()


@pytest.mark.usefixtures("cached")
def test_the_command(bottleneck, heads, monkeypatch):
    opened = []
    monkeypatch.setattr(webbrowser, "open", lambda address: opened.append(address) or False)
    finished = bottleneck("report", "--format", "md", "--open")  # without a head
    assert finished.code == 0
    assert opened == [Path("report.md").resolve().as_uri()]
    assert finished.err.endswith("no browser could be started; open report.md yourself\n")
    assert Path("report.md").is_file()
    for name, head in heads.items():
        head.save(Path("heads") / name)
    finished = bottleneck("report", "--head", "strong", "--head", "weak", "--json")
    found = json.loads(finished.out)
    assert found["heads"] == ["strong", "weak"]
    assert found["bytes"] == Path("report.html").stat().st_size
    finished = bottleneck("report", "--all", "--output", "all")
    assert finished.code == 0, finished.err
    assert Path("all/index.html").is_file()
    finished = bottleneck("evaluate", "--head", "weak", "--report", "short.html")
    assert finished.code == 0
    assert finished.err.endswith("report written to short.html\n")
    assert content_of("short.html")["heads"] == ["weak"]


def test_damage_is_told_on_the_page(make_images, little):
    """To rows of other splits than the evaluated one, and to those of that one."""
    make_images(**LABELS)
    images = ImageSet.from_folder("data")
    test = tuple(item for item in images.items if item.split == "test")
    for items in (test, images.items):  # each extraction writes a part
        cache = extracted(little, replace(images, items=items))
    head = {"h": fit_head(load_features(cache), "lda")}
    accuracy = make_report(cache, head).heads[0].evaluation.accuracy
    parts = sorted(Path("cache").glob("little-*/parts/*.h5"))
    assert len(parts) == 2
    flip_value(parts[1])
    report = make_report(cache, head)
    assert report.heads[0].evaluation.accuracy == accuracy
    assert {each.item.split for each in report.images if each.given[0]} == {"test"}
    assert report.notes[0].startswith("h: only test images have predictions: 'cache/little-")
    assert "is damaged" in report.notes[0]
    flip_value(parts[0])
    report = make_report(cache, head)
    assert "is damaged" in report.heads[0].problem
    assert report.heads[0].problem in report.notes[0]
    write_report(report, "report.html")
    assert "Not evaluated: &#39;cache/little-" in Path("report.html").read_text()
    cache.run_files()[0].write_text("damaged")
    notes = make_report(cache, head).notes
    assert notes[0].startswith("images that were left out may not be listed: 'cache/runs")
    with pytest.raises(DamagedError, match="'cache/runs"):
        make_report(cache, image_set="data")


def flip_value(part: Path) -> None:
    """Flip a bit of a stored feature."""
    with h5py.File(part) as file:
        stored = next(iter(file["features"].values()))
        values = stored if isinstance(stored, h5py.Dataset) else stored["values"]
        place = values.id.get_chunk_info(0).byte_offset if values.chunks else values.id.get_offset()
    content = bytearray(part.read_bytes())
    content[place] ^= 1
    part.write_bytes(content)


MISTAKES = [
    (("--head", "none"), 2, "no head 'none'"),
    (("--head", "h", "--head", "h"), 2, "two heads have the name 'h'; give each once"),
    (("--set", "data", "--head", "h"), 2, "--set and --head exclude each other"),
    (("--output", "a.doc"), 2, "expected a name in .html, .htm, .md, .json, or give --format"),
    (("--output", "data"), 2, "'data' is a folder, but a report is a file"),
    (("--all", "--output", "data"), 2, "is not the folder of a report; give another with --output"),
    (("--set", "none"), 2, "no extraction with set 'none'"),
    (("--output", "/dev/full/a.html"), 1, "'/dev/full/a.html' cannot be used (Not a directory)"),
    (("--output", "/proc/a/a.html"), 1, "'/proc/a/a.html' cannot be used"),
    (("--all", "--output", "/proc/a"), 1, "cannot be used"),
    (("--cache", "none", "--head", "h"), 1, "no image set 'data' in the cache folder 'none'"),
]


@pytest.mark.usefixtures("cached")
def test_mistakes_are_one_sentence(bottleneck, heads):
    heads["strong"].save("heads/h")
    for words, code, sentence in MISTAKES:
        finished = bottleneck("report", *words)
        assert finished.code == code, (words, finished.err)
        assert sentence in finished.err.splitlines()[-1], finished.err
    finished = bottleneck("evaluate", "--report", "a.doc")
    assert finished.code == 2


def test_heads_of_different_images_are_refused(cached, heads, make_images, little):
    make_images("other", cat=6, dog=6, seed=3)
    extract_features(
        ImageSet.from_folder("other"), FrozenBase(little, "flat", weights="random:0"), cached
    )
    other = fit_head(load_features(cached), "lda")
    with pytest.raises(UsageError, match="the heads belong to different image sets, 'data', 'oth"):
        make_report(cached, {**heads, "other": other})

"""The page of a report in real Chromium: opened from a file, clicked, with hostile names.

All need Chromium, as Debian's package ``chromium`` has it, and are skipped where there is none.
About 120 s in the second tier.
"""

import csv
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from browsing import in_chromium
from conftest import crops
from PIL import Image
from test_finetune import fitted, write_images

from bottleneck import (
    Cache,
    FrozenBase,
    ImageSet,
    advise_on,
    extract_features,
    fit_head,
    load_features,
    select_layers,
)
from bottleneck.advise import keep_advice
from bottleneck.advise.verdict import PLATEAUED
from bottleneck.report import Card, make_report, write_gallery, write_report
from bottleneck.settings import AdviseSettings

pytestmark = [pytest.mark.ci, in_chromium]
HOSTILE = [
    "</script><script>window.hacked=1</script>",
    '<img src=x onerror="window.hacked=1">',
    "\"'&quot--><b>`${window.hacked=1}`{{7*7}}",
    "a\x1b[2Jb\x07",
    "\u202eevil\u2066\u200f עברית",
    "w" * 300,
    "=1+1",
    "' + (window.hacked=1) + '",
]
FILES = [
    "<script>window.hacked=1<.png",
    "\"'><b>.png",
    "a\x1b[2Jb.png",
    "\u202egnp.png",
    "w" * 240 + ".png",
    "%3Cscript%3E #?&.png",
]


@pytest.fixture
def opened(browser) -> Iterator[Callable[..., object]]:
    """Open a page; in the end, nothing may have been asked of a host, and nothing gone wrong."""
    contexts, wrong = [], []

    def open_page(file: Path, **options: object) -> object:
        options = {"viewport": {"width": 1200, "height": 900}} | options
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on(
            "request", lambda asked: wrong.append(asked.url) if not is_local(asked.url) else None
        )
        page.goto(Path(file).resolve().as_uri())
        return page

    yield open_page
    for page in (page for context in contexts for page in context.pages):
        assert page.evaluate("window.hacked") is None
    for context in contexts:
        context.close()
    assert not wrong, wrong


def is_local(url: str) -> bool:
    return url.startswith(("file:", "data:"))


def cards(page) -> list[str]:
    return page.locator("#gallery .card").all_inner_texts()


def made(labels: dict[str, str], *, base: str, heads: int = 1):
    """Return a report on images with these labels by path; the paths are in the folder."""
    with Path("set.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerows([("path", "label"), *labels.items()])
    cache = Cache("cache")
    extract_features(ImageSet.open("set.csv"), FrozenBase(base, "flat", weights="random:0"), cache)
    features = load_features(cache)
    fitted = {
        f"head {number}": fit_head(features, "softmax", C=10.0**-number) for number in range(heads)
    }
    return cache, fitted


@pytest.fixture
def paths(tmp_path) -> Callable[[int], list[str]]:
    """Write different images with hostile names; return their paths."""

    def write(count: int) -> list[str]:
        found = []
        for number, image in enumerate(crops(count, size=40)):
            folder = tmp_path / "images" / f"{number // len(FILES):03d}"
            folder.mkdir(parents=True, exist_ok=True)
            image.save(folder / FILES[number % len(FILES)])
            found.append(str(folder / FILES[number % len(FILES)]))
        return found

    return write


@pytest.fixture
def plain(paths, little):
    """A report on two heads and four classes, with errors."""
    labels = {path: "abcd"[number % 4] for number, path in enumerate(paths(160))}
    cache, heads = made(labels, base=little, heads=2)
    report = make_report(cache, heads)
    return report, write_report(report, "report.html")


def test_a_cell_shows_its_images(plain, opened):
    report, file = plain
    page = opened(file)
    evaluation = report.heads[0].evaluation
    worst = evaluation.worst_confusions(1)[0]
    row = [each.label for each in evaluation.classes].index(worst["label"])
    column = [each.label for each in evaluation.classes].index(worst["predicted"])
    page.locator("#head-0 .matrix tbody tr").nth(row).locator("td").nth(column).click()
    found = cards(page)
    assert len(found) == worst["images"]
    assert all(f"class {worst['label']}" in each for each in found)
    assert all(f"predicted {worst['predicted']}" in each and "wrong" in each for each in found)
    shares = [float(each.split("%")[0].split()[-1]) for each in found]
    assert shares == sorted(shares, reverse=True)
    source = page.locator("#gallery img").first.get_attribute("src")
    assert source.startswith("data:image/jpeg;base64,")
    assert page.evaluate("document.querySelector('#gallery img').naturalWidth") == 40
    write_report(replace(report, images=report.images[:40]), "some.html")
    part = opened("some.html")
    part.locator("#head-0 .matrix .right").first.click()
    assert "the others are not on this page" in part.locator("#count").inner_text()
    # That of the other head shows the other head's.
    page.locator("#head-1 .matrix .right").first.click()
    assert page.locator("#f-head").input_value() == "1"
    assert all("right" in each for each in cards(page))


def test_images_are_filtered_sorted_and_found(plain, opened):
    report, file = plain
    page = opened(file)
    first = report.images[0].item
    page.locator("#f-text").fill(first.path[-30:])
    assert "class" in cards(page)[0]
    page.get_by_role("button", name="Show all").click()
    page.locator("#f-split").select_option(label="test")
    test = sum(each.item.split == "test" for each in report.images)
    assert page.locator("#count").inner_text().startswith(f"{test} of 160 images match")
    page.locator("#f-result").select_option("wrong")
    wrong = sum(
        each.item.split == "test" and each.given[0].right is False for each in report.images
    )
    assert len(cards(page)) == min(60, wrong)
    page.locator("#f-low").fill("99.99")
    assert page.locator("#count").inner_text().startswith("0 of 160")
    page.get_by_role("button", name="Show all").click()
    page.locator("#f-result").select_option("differ")
    differing = sum(len({given.label for given in each.given}) > 1 for each in report.images)
    assert page.locator("#count").inner_text().startswith(f"{differing} of 160")
    page.get_by_role("button", name="Show all").click()
    page.locator("#f-order").select_option("low")
    shares = [float(each.split("%")[0].split()[-1]) for each in cards(page)]
    assert shares == sorted(shares)
    assert len(shares) == 60
    page.get_by_role("button", name="Show more").click()
    assert len(cards(page)) == 120


def test_tables_are_sorted(plain, opened):
    _, file = plain
    page = opened(file)
    table = page.locator("#head-0 table").nth(-1)
    share = lambda text: float(text.split()[0])  # noqa: E731 - its interval is below it
    for place, convert in ((3, share), (0, str)):
        header = table.locator("thead th").nth(place)
        for way, reverse in (("ascending", False), ("descending", True)):
            header.get_by_role("button").click()
            assert header.get_attribute("aria-sort") == way
            values = [
                convert(each)
                for each in table.locator(f"tbody td:nth-child({place + 1})").all_inner_texts()
            ]
            assert values == sorted(values, reverse=reverse)


def test_the_map_selects_images_and_shows_one(plain, opened):
    report, file = plain
    page = opened(file)
    canvas = page.locator("#canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    x, y = page.evaluate("spot(placed[3])")
    page.mouse.move(box["x"] + x, box["y"] + y)
    assert page.locator("#tip img").is_visible()
    page.mouse.click(box["x"] + x, box["y"] + y)
    assert page.locator("#dialog").is_visible()
    assert page.locator("#dialog img").evaluate("each => each.naturalWidth") == 40
    page.keyboard.press("Escape")
    page.mouse.move(box["x"] + 2, box["y"] + 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] - 2, steps=3)
    page.mouse.up()
    half = sum(each.place[0] <= 0.5 for each in report.images)
    picked = int(page.locator("#count").inner_text().split(" of ")[0])
    assert abs(picked - half) <= 3
    page.get_by_role("button", name="End the selection").click()
    assert page.locator("#count").inner_text().startswith("160 of 160")


def test_the_keyboard_suffices(plain, opened):
    _, file = plain
    page = opened(file)
    page.locator("#head-0 .matrix .cell").first.focus()
    page.keyboard.press("Enter")
    count = len(cards(page))
    assert 0 < count < 60
    page.locator("#gallery .card").first.focus()
    page.keyboard.press("ArrowRight")
    assert (
        page.evaluate(
            "[...document.querySelectorAll('#gallery .card')].indexOf(document.activeElement)"
        )
        == 1
    )
    page.keyboard.press("Enter")
    path = page.locator("#dialog dd").first.inner_text()
    page.keyboard.press("ArrowRight")
    assert page.locator("#dialog dd").first.inner_text() != path
    page.keyboard.press("ArrowLeft")
    assert page.locator("#dialog dd").first.inner_text() == path
    page.keyboard.press("Escape")
    assert not page.locator("#dialog").is_visible()
    page.locator("#canvas").focus()
    for key in ("ArrowRight", "ArrowDown", "ArrowRight", "Enter"):
        page.keyboard.press(key)
    assert page.locator("#dialog").is_visible()


def test_hostile_names_are_shown_as_text(paths, little, opened):
    labels = {path: HOSTILE[number % len(HOSTILE)] for number, path in enumerate(paths(96))}
    cache, heads = made(labels, base=little)
    names = {"<script>window.hacked=1</script>": heads["head 0"]}
    page = opened(write_report(make_report(cache, names), "report.html"))
    assert page.locator("script").count() == 2
    assert page.locator("#gallery b, main img[src=x]").count() == 0
    listed = page.locator("#data tbody tr").all_inner_texts()
    for name in (
        "</script><script>window.hacked=1</script>",
        "\\x1b[2J",
        "\\u202eevil",
        "w" * 300,
        "{{7*7}}",
    ):
        assert any(name in each for each in listed), name
    page.locator("#data tbody .link").first.click()
    assert len(cards(page)) == 12
    page.locator("#gallery .card").first.click()
    assert page.locator("#dialog").is_visible()
    for width in (400, 1200):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    page = opened(write_report(make_report(cache, names), "all", "folder"))
    assert (
        page.locator("#gallery img").first.evaluate(
            "each => each.decode().then(() => each.naturalWidth)"
        )
        == 40
    )


def test_what_next_has_the_advice_the_leaderboard_and_fine_tuning(bottleneck, opened):
    """As the commands leave them; the advice is changed, to name a layer to train."""
    images, cache = ImageSet.open(write_images(train=12, val=4, test=3)), Cache("cache")
    fitted(cache, images, "centroid").save("heads/head")
    how = AdviseSettings(clf="centroid", repeats=1)
    advice = advise_on(cache, select_layers(cache), how, jobs=1)
    told = replace(advice.verdict, kind=PLATEAUED, layer="conv_head", sentence="It is <b>flat</b>.")
    keep_advice(cache, select_layers(cache), how, replace(advice, verdict=told))
    for words in (("sweep", "--clf", "centroid", "--clf", "knn"), ("finetune", "--epochs", 2)):
        named = ("--name", "tuned") if words[0] == "finetune" else ("--jobs", 1)
        done = bottleneck(*words, *named)
        assert done.code == 0, done.err
    assert bottleneck("report", "--head", "head").code == 0
    page = opened(Path("report.html"))
    section = page.locator("#next")
    assert "It is <b>flat</b>." in section.inner_text()
    assert section.locator("pre").inner_text().startswith("bottleneck ")
    drawings = section.locator("img.drawing")
    alts = drawings.evaluate_all("all => all.map((each) => each.alt)")
    assert [each.partition(" of ")[0] for each in alts] == ["Learning curve", "Loss and accuracy"]
    for place in range(2):
        assert drawings.nth(place).evaluate("each => each.decode().then(() => each.naturalWidth)")
    assert "heads/tuned: trained from conv_head: accuracy" in section.inner_text()
    assert "'advise' did not say whether fine-tuning gains" in section.inner_text()
    board = section.locator("table").last.locator("tbody tr")
    shown = [row.locator("td").nth(4).inner_text() for row in board.all()]
    assert {"centroid", "knn"} <= set(shown)
    page.set_viewport_size({"width": 400, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    assert page.evaluate(CONTRAST) == []
    for form in ("md", "json"):
        assert bottleneck("report", "--head", "head", "--format", form).code == 0
    text, found = Path("report.md").read_text(), json.loads(Path("report.json").read_text())["next"]
    assert "It is &lt;b&gt;flat&lt;/b&gt;." in text
    assert found["tuned"][0]["sentence"].startswith("trained from conv_head")
    assert "trained from conv\\_head" in text
    assert found["advice"]["verdict"]["kind"] == "plateaued"
    assert len(found["leaderboard"]["rows"]) == len(shown)


def test_hundreds_of_classes_with_images_since_deleted(little, tmp_path, opened):
    generator = np.random.default_rng(0)
    labels = {}
    for number in range(900):
        path = tmp_path / "images" / f"{number:03d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(generator.integers(0, 255, (36, 36, 3), np.uint8)).save(path)
        labels[str(path)] = f"class {number % 300}"
    cache, heads = made(labels, base=little)
    for number in range(300, 900):
        (tmp_path / "images" / f"{number:03d}.png").unlink()
    report = make_report(cache, heads)
    page = opened(write_report(report, "report.html"))
    assert "600 images have no thumbnail" in page.locator("aside").inner_text()
    assert page.locator("#head-0 .matrix tbody tr").count() == 30
    assert page.locator("#f-label option").count() == 301
    page.locator("#f-text").fill("/899.png")
    assert "No such file" in cards(page)[0]
    page.locator("#f-text").fill("/000.png")
    assert page.locator("#gallery img").count() == 1
    page.set_viewport_size({"width": 400, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 400


def test_a_set_without_labels_has_a_page(paths, little, opened):
    paths(12)
    images = ImageSet.from_paths(["images"], name="plain")
    cache = Cache("cache")
    extract_features(images, FrozenBase(little, "flat", weights="random:0"), cache)
    page = opened(write_report(make_report(cache), "report.html"))
    assert "no classes" in page.locator("#data").inner_text()
    assert len(cards(page)) == 12
    page.locator("#gallery .card").first.click()
    assert page.locator("#dialog dd").count() == 1


def test_fifty_thousand_images_are_filtered_and_selected(plain, opened):
    """As `--all` writes them; here, they are the same 160 images again and again."""
    report, _ = plain
    places = np.random.default_rng(0).uniform(size=(50_000, 2)).tolist()
    many = [
        replace(each, item=replace(each.item, path=f"{number:05d}.png"), place=tuple(place))
        for number, place in enumerate(places)
        for each in [report.images[number % 160]]
    ]
    summary = replace(report.summary, images=len(many))
    page = opened(write_report(replace(report, images=many, summary=summary), "all", "folder"))
    count = page.locator("#count")
    assert count.inner_text().startswith("50000 of 50000 images match; 60 shown")
    page.locator("#f-text").fill("4999")
    found = sum("4999" in each.item.path for each in many)
    assert count.inner_text().startswith(f"{found} of 50000")
    page.locator("#head-0 .matrix .right").first.click()
    right = [
        each
        for each in many
        if each.given[0].right and each.item.split == "test" and each.item.label == "a"
    ]
    assert count.inner_text().startswith(f"{len(right)} of 50000")
    page.get_by_role("button", name="Show all").click()
    canvas = page.locator("#canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    page.mouse.move(box["x"] + 2, box["y"] + 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] - 2, steps=20)
    drawn = page.locator("#box").bounding_box()
    assert drawn["width"] == pytest.approx(box["width"] / 2 - 2, abs=3)
    page.mouse.up()
    assert not page.locator("#box").is_visible()
    half = sum(each.place[0] <= 0.5 for each in many)
    assert abs(int(count.inner_text().split(" of ")[0]) - half) < 500


def test_a_number_of_a_class_shows_its_images_where_images_have_several(paths, little, opened):
    labels = ["a", "b;c", "a;c", "b", "c"]
    cache = made({path: labels[n % 5] for n, path in enumerate(paths(150))}, base=little, heads=0)[
        0
    ]
    report = make_report(cache, {"several": fit_head(load_features(cache), "logreg", C=1e-3)})
    page = opened(write_report(report, "report.html"))
    for row, answers in zip(
        page.locator("#head-0 table").last.locator("tbody tr").all(),
        report.heads[0].answers,
        strict=True,
    ):
        for column, kind in enumerate(("right", "missed", "false"), 5):
            count, cell = getattr(answers, kind), row.locator("td").nth(column)
            assert cell.inner_text() == str(count)
            if not count:
                continue
            cell.get_by_role("button").click()
            told = [page.evaluate(SHOWN, place) for place in range(len(cards(page)))]
            assert len(told) == count
            for has, given, split in told:
                assert split == "test"
                assert (answers.label in has) == (kind != "false")
                assert (answers.label in given) == (kind != "missed")
    page.get_by_role("button", name="Show all").click()
    page.locator("#f-result").select_option(label="class missed")
    missed = [
        each
        for each in report.images
        if not {*each.item.label.split(";")} <= {*each.given[0].label.split(";")}
    ]
    assert page.locator("#count").inner_text().startswith(f"{len(missed)} of 150")
    assert page.evaluate(CONTRAST) == []


SHOWN = """(place) => {
  const row = found[place], names = (numbers) => numbers.map((each) => page.names[each]);
  return [names(row.labels), names(row.given[0][0]), page.splits[row.split]];
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_gallery_with_hostile_names(paths, opened, scheme):
    """As `suspects`, `suggest` and `similar` write it."""
    items = ImageSet.from_paths(paths(16)).items
    cards = [
        Card(item, {"score": "0.50", "class": HOSTILE[number % len(HOSTILE)]})
        for number, item in enumerate(items)
    ]
    write_gallery("gallery.html", HOSTILE[0], [cards[:5], cards[5:]], sentence=HOSTILE[1])
    size = {"width": 400, "height": 800}
    page = opened(Path("gallery.html"), viewport=size, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    assert page.evaluate("[...document.images].every(each => each.naturalWidth && each.alt)")
    assert page.locator("figure").count() == 16
    assert page.evaluate(CONTRAST) == []
    assert page.pdf(format="A4").startswith(b"%PDF")


CONTRAST = """() => {
  const numbers = (text) => {
    const found = text.match(/[\\d.]+/g).map(Number);
    const scale = text.startsWith('color(') ? 255 : 1;
    return [...found.slice(0, 3).map((each) => each * scale), found[3] ?? 1];
  };
  const light = (rgb) => {
    const [r, g, b] = rgb.slice(0, 3).map((each) => each / 255)
      .map((each) => each <= 0.04045 ? each / 12.92 : ((each + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (let each = element; each; each = each.parentElement) {
      const colour = getComputedStyle(each).backgroundColor;
      if (numbers(colour)[3] > 0) return numbers(colour);
    }
    return [255, 255, 255];
  };
  const poor = [];
  for (const each of document.querySelectorAll('body *')) {
    const own = [...each.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!own || !each.checkVisibility() || /^(SCRIPT|STYLE|OPTION)$/.test(each.tagName)) continue;
    const style = getComputedStyle(each);
    const text = numbers(each.closest('svg') ? style.fill : style.color);
    const [low, high] = [light(text), light(behind(each))].sort((a, b) => a - b);
    const ratio = (high + 0.05) / (low + 0.05);
    if (ratio < 4.5) poor.push([each.tagName, each.className, each.textContent, ratio]);
  }
  return poor;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_has_the_contrast_of_wcag_aa(plain, opened, scheme):
    _, file = plain
    page = opened(file, color_scheme=scheme)
    assert page.evaluate(CONTRAST) == []
    assert (
        page.locator("img:not([alt]), img[alt=''], :is(svg, canvas):not([aria-label])").count() == 0
    )


def test_it_fits_a_narrow_screen_and_prints(plain, opened):
    _, file = plain
    page = opened(file, viewport={"width": 400, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    assert page.pdf(format="A4").startswith(b"%PDF")
    page.emulate_media(media="print")
    assert not page.locator("#filters").is_visible()
    assert page.locator("#gallery img").first.is_visible()


def test_the_content_is_that_of_the_json_form(plain, opened):
    report, file = plain
    page = opened(file)
    write_report(report, "report.json")
    content = json.loads(Path("report.json").read_text())
    told = page.evaluate("rows.map((each) => each.path)")
    assert told == [
        each["item"]["path"].replace("\x1b", "\\x1b").replace("\u202e", "\\u202e")
        for each in content["images"]
    ]
    assert content["heads"][0]["evaluation"]["accuracy"] == report.heads[0].evaluation.accuracy

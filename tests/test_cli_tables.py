"""Tables of text fit the terminal, or 80 columns in a pipe. About 1 s in the first tier."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as some
from rich.cells import cell_len

from bottleneck.cli.output import print_table, printed_as
from bottleneck.cli.tables import draw_matrix, kept_apart, shortened

WIDE = {"name": "n" * 60, "a_number": 1.5, "other": "first part, last part " * 4}


@pytest.fixture
def printed(capsys, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)

    def run(*rows, **options):
        capsys.readouterr()
        print_table(rows, **options)
        return capsys.readouterr().out.splitlines()

    return run


def test_cells_are_cut_in_the_middle_and_numbers_are_not(printed):
    *_, row = printed(WIDE)
    name, number, other = re.split(" {2,}", row)
    assert re.fullmatch(r"n+\.\.\.n+", name)
    assert number == "1.5"
    assert re.fullmatch(r"first part.*\.\.\..*last part", other)
    assert len(row) <= 80


def test_names_of_rows_are_cut_last(printed):
    row = {"name": "n" * 30, "weights": "w" * 20, "input": "i" * 20, "layer": "l" * 20}
    lines = printed(row)
    assert lines[-1].startswith("n" * 30 + "  w")
    assert lines[-1].count("...") == 3
    assert len(lines[-1]) <= 80


def test_a_terminal_has_its_own_width(printed, monkeypatch):
    for width in (40, 120):
        monkeypatch.setenv("COLUMNS", str(width))
        longest = max(map(len, printed(WIDE)))
        assert width - 10 < longest <= width


def test_headings_wrap_before_cells_are_cut(printed):
    lines = printed({"name": "n" * 60, "share of_all_images": 1.5, "other": "o" * 5})
    assert sorted(" ".join(lines[:-1]).split()) == ["all_images", "name", "of_", "other", "share"]
    assert "n" * 60 in lines[-1]
    assert max(map(len, lines)) <= 80


def test_columns_that_can_be_spared_are_named(printed, capsys):
    rows = [{"first": "a", "spare": "s" * 50, "least": "l" * 50, "last": 1}] * 2
    rows = [row | {"empty": None} for row in rows]
    print_table(rows, spare=("least", "spare", "empty"))
    captured = capsys.readouterr()
    assert captured.out.splitlines()[0].split() == ["first", "spare", "last"]
    assert captured.err == "note: --wide also shows least, empty\n"
    with printed_as(wide=True):
        lines = printed(*rows, spare=("least", "spare"))
    assert lines[0].split() == ["first", "spare", "least", "last", "empty"]
    assert "l" * 50 in lines[1]


def test_a_matrix_has_shortened_names_or_is_not_printed(capsys, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    assert draw_matrix(["a_b", "c"], [[10, 2], [3, 4]], "true") is True
    assert capsys.readouterr().out == "true  a_b  c\na_b    10  2\nc       3  4\n"
    labels = [f"a rather long name {number}" for number in range(8)]
    counts = [[1] * 8] * 8
    assert draw_matrix(labels, counts, "true") is True
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    assert "..." in out
    assert draw_matrix([str(number) for number in range(40)], [[1] * 40] * 40, "true") is False
    assert not capsys.readouterr().out


@given(some.text(max_size=40), some.integers(1, 30))
def test_shortened_texts_fit(text, width):
    found = shortened(text, width)
    assert cell_len(found) <= width
    if cell_len(text) <= width:
        assert found == text
    elif width > 4:
        assert "..." in found


NAMES = [
    f"melanerpes_{species}_{sex}_adult_breeding_plumage_of_north_america"
    for species in ("erythrocephalus", "carolinus")
    for sex in ("male", "female")
]


def test_different_names_stay_different_however_they_are_cut(printed):
    """What all have is cut first, so that what is left tells them apart."""
    pairs = [(one, other) for one in NAMES for other in NAMES if one != other]
    rows = [{"true": one, "predicted": other, "images": 3} for one, other in pairs]
    told = [re.split(" {2,}", line)[:2] for line in printed(*rows)[1:]]
    for column in range(2):
        assert len({names[column] for names in told}) == len(NAMES)
    assert all(one != other for one, other in told)
    for (one, _), (short, _) in zip(pairs, told, strict=True):
        species, sex = one.split("_")[1:3]
        assert re.fullmatch(rf"melan.*{species[:3]}.*{sex[-3:]}.*", short)
    one = kept_apart([("a" * 40 + letter + "c" * 60, 20) for letter in "bd"])
    assert [*one.values()] == ["aaaaa...bcc...cccccc", "aaaaa...dcc...cccccc"]
    far = [first + "c" * 60 + last for first in "ab" for last in "de"]
    alike = kept_apart(("a" * 40 + text + "f" * 40, 12) for text in far)
    assert [*alike.values()] == [f"aaa...fff #{number}" for number in (1, 2, 3, 4)]


@given(
    texts=some.lists(some.text("ab_ \u672c", min_size=5, max_size=60), unique=True, max_size=12),
    widths=some.lists(some.integers(8, 30), min_size=1, max_size=2, unique=True),
)
def test_names_that_are_kept_apart_fit(texts, widths):
    shown = kept_apart((text, width) for text in texts for width in widths)
    for (text, width), short in shown.items():
        assert cell_len(short) <= width
        assert {other for (other, _), each in shown.items() if each == short} == {text}
        assert short == text or cell_len(text) > width


@pytest.mark.ci
def test_every_table_fits_a_pipe(bottleneck, make_images, monkeypatch):
    """Of every command that prints one; the names of one class and of the cache are long."""
    monkeypatch.delenv("COLUMNS", raising=False)
    make_images(**{"cat": 6, "a class whose name is quite long": 6, "another long name": 6})
    where = ("--cache", "a_cache_with_a_long_name/in_a_folder")
    layers = ("--layer", "features.3", "--layer", "features.12", "--layer", "features.12.expand1x1")
    commands = [
        ("extract", "--model", "squeezenet1_1", "--weights", "random", *layers, *where),
        ("sweep", "--clf", "centroid", "--clf", "softmax", "--C", 0.1, "--cv", 2, *where),
        ("leaderboard",),
        ("leaderboard", "--compare", 1, 2),
        ("fit-head", "--clf", "centroid", *where),
        ("evaluate", *where),
        ("models",),
        ("layers", "resnet50"),
        ("layers", "squeezenet1_1"),
        ("cache", "ls", *where),
        ("cache", "info", "squeezenet1_1", *where),
        ("cache", "verify", "--deep", *where),
        ("cache", "compact", *where),
        ("cache", "prune", "--model", "squeezenet1_1", "--dry-run", *where),
    ]
    for command in commands:
        finished = bottleneck(*command)
        assert finished.code == 0, (command, finished.err)
        wide = [line for line in finished.out.splitlines() if len(line) > 80]
        tables = [line for line in wide if "  " in line]
        assert not tables, (command, tables)
    assert max(map(len, bottleneck("models", "--wide").out.splitlines())) > 100

"""Words of messages: counts and nouns agree, and one thing has one name.

About 2 s in the first tier.
"""

import ast
import re
from itertools import pairwise
from pathlib import Path

import pytest

import bottleneck
from bottleneck.errors import UsageError, as_options, counted

FILES = sorted(Path(bottleneck.__file__).parent.rglob("*.py"))
NOUNS = (
    "banks classes copies epochs experiments features files fits folders folds heads images "
    "labels layers pages pairs parts predictions rows samples values views"
)
COUNT = re.compile(rf"^ (?!no |on |has |several )(?:[a-z-]+ )?(?:{NOUNS.replace(' ', '|')})\b")
NEVER_ONE = {
    "split", "split or ''", "'their' if len(whole) > 1 else 'its'",  # no numbers
    "_MOST_VALUES", "_third(loss)", "evidence.images", "fewest", "folds", "len(arguments)",
    "len(base.layers)",
    "len(others) + 1", "len(planes)", "len(self.repeats[0])", "len(small)", "len(whole)",
    "others + 1", "parts", "shots",
}  # fmt: skip
"""What a count may be told by without `counted`: it is no number, or at least 2."""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (counted(1, "image"), "1 image"),
        (counted(0, "image"), "0 images"),
        (counted(2, "class"), "2 classes"),
        (counted(1, "copy is", "copies are"), "1 copy is"),
        (counted(3, "copy is", "copies are"), "3 copies are"),
    ],
)
def test_a_count_agrees_with_its_noun(text, expected):
    assert text == expected


def test_parameters_become_options():
    told = as_options(UsageError("'`' needs `image_set`, or `augment=standard`; give `join`"))
    assert told == "'`' needs --image-set, or --augment standard; give --join"


def constants(tree):
    """Texts of a module that are no docstrings."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    docs = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, documented) and node.body and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            yield node.value


def test_every_count_before_a_noun_is_told_by_one_function():
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text())):
            parts = node.values if isinstance(node, ast.JoinedStr) else []
            for value, after in pairwise(parts):
                if isinstance(value, ast.FormattedValue) and value.conversion == -1:
                    text = after.value if isinstance(after, ast.Constant) else ""
                    told = ast.unparse(value.value)
                    assert not COUNT.match(text) or told in NEVER_ONE, (file.name, told, text)


def test_a_table_of_images_has_one_name():
    for file in FILES:
        for text in constants(ast.parse(file.read_text())):
            assert not re.search(r"\bmanifest", text), (file.name, text)

"""Any text can be drawn, in lines that fit. About 1 s."""

import pytest

from bottleneck.images.lettering import _has, drawable, wrapped

NAMES = [
    "plain",
    "café",
    "жук",
    "猫",
    "犬",
    "🐱",
    "عربي",
    "a\nb",
    "a\x1bb",
    "",
    "w " * 60,
    "w" * 90,
]


@pytest.mark.parametrize("name", NAMES)
def test_each_letter_is_drawn_or_escaped(name):
    font, text = drawable(name)
    assert all(_has(font, letter) for letter in text)
    assert len(text) >= len(name)
    assert text == name or "\\" in text
    lines = wrapped(text, font, 142, 11)
    assert all(font.getlength(line) <= 142 for line in lines)
    kept = "".join(lines).replace(" ", "")
    assert text.replace(" ", "").startswith(kept)
    assert kept == text.replace(" ", "") or len(lines) == 11


def test_texts_whose_letters_no_font_has_differ():
    (_, first), (_, second) = drawable("\U000f0001"), drawable("\U000f0002")
    assert (first, second) == ("\\U000f0001", "\\U000f0002")

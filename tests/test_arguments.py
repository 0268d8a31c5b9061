"""One rule for the names of layers. About 1 s."""

import pytest

from bottleneck.arguments import find_layers

LAYERS = {
    "conv1": (),
    "block1.conv": ("first",),
    "block1.relu": ("block1_pool",),
    "block2.relu": ("block2_pool", "conv1"),
    "logits": (),
}


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("logits", {}, {"logits": "logits"}),
        ("first", {}, {"block1.conv": "first"}),
        ("conv1", {}, {"block2.relu": "conv1"}),  # an alias before another layer's own name
        ("block1", {}, {"block1.relu": "block1"}),
        ("block1", {"whole": True}, {"block1.conv": "block1", "block1.relu": "block1"}),
        ("block", {}, {}),
        ("block1.", {}, {}),
        ("block*_pool", {}, {}),
        (
            "block*_pool",
            {"patterns": True},
            {"block1.relu": "block1_pool", "block2.relu": "block2_pool"},
        ),
        ("*.conv", {"patterns": True}, {"block1.conv": "block1.conv"}),
        (
            "*1*",
            {"patterns": True},
            {
                "block1.conv": "block1.conv",
                "block1.relu": "block1_pool",
                "block2.relu": "conv1",
            },
        ),
        ("block?", {"patterns": True}, {"block1.relu": "block1", "block2.relu": "block2"}),
        ("x*", {"patterns": True}, {}),
    ],
)
def test_layers_are_found_by_their_names(name, options, expected):
    found = find_layers(name, LAYERS, **options)
    assert list(found.items()) == list(expected.items())

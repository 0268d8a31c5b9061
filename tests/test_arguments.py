"""One rule for the names of layers."""

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
        ("logits", {}, ["logits"]),
        ("first", {}, ["block1.conv"]),
        ("conv1", {}, ["block2.relu"]),  # an alias goes before another layer's own name
        ("block1", {}, ["block1.relu"]),
        ("block1", {"whole": True}, ["block1.conv", "block1.relu"]),
        ("block", {}, []),
        ("block1.", {}, []),
        ("block*_pool", {}, []),
        ("block*_pool", {"patterns": True}, ["block1.relu", "block2.relu"]),
        ("*.conv", {"patterns": True}, ["block1.conv"]),
        ("block?", {"patterns": True}, ["block1.relu", "block2.relu"]),
        ("x*", {"patterns": True}, []),
    ],
)
def test_layers_of_a_name(name, options, expected):
    assert list(find_layers(name, LAYERS, **options)) == expected

"""Conformance tests for bases of other packages; needs pytest.

Import `BaseConformance` in a test module of the package, and subclass it for each base.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bottleneck.bases import find_model
from bottleneck.bases.frozen import FrozenBase

__all__ = ["BaseConformance", "seeded"]

_BATCH = 3
_MOST = 1e-4
"""Of the largest value of a layer, whatever the rounding errors are."""
_OTHER_ORDERS = 1 + 64**0.5
"""How far two orders of summation may lie apart, as a multiple of the rounding error of one.

The k-th of n terms of size s and either sign makes a partial sum of about s sqrt(k), which is
rounded by a share of u = 2**-24: in all by about u s n / sqrt(2), or by sqrt(m) less where m sums
of n / m terms each are added at the end. Kernels have between 1 and 64 of these (4 registers of 16
numbers with AVX-512): the error of one order is up to sqrt(64) times that of another. The weights
of a folded normalisation are rounded, too, which adds u s sqrt(n): little. What s and n are, and
what further layers make of an error, is the same for both, and measured against float64.
"""


@dataclass(frozen=True)
class Subject:
    """A base, and what the unmodified network with the same weights computes.

    `features` are what the base computes of all images. `errors` are those of float32 in the
    network itself for the first image, against float64; `changed` is the deepest output after the
    weights in the middle have changed.
    """

    base: FrozenBase
    features: dict[str, Tensor]
    weights: str
    modules: tuple[str, ...]
    images: Tensor
    expected: dict[str, Tensor]
    changed: Tensor
    errors: dict[str, float]

    def assert_same(self, layer: str, ours: Tensor, expected: Tensor) -> None:
        """Fail unless values of a layer are equal up to another order of summation."""
        allowed = _OTHER_ORDERS * self.errors[layer]
        torch.testing.assert_close(ours, expected, rtol=0, atol=allowed)


class BaseConformance:
    """Tests that a base computes what its own network does, whatever the batch.

    The network gets seeded random weights, so that nothing is downloaded.

    Attributes
    ----------
    model : str
        Name of the base.
    modules : tuple of str
        Modules of the network that return one tensor each: a shallow one, one in the middle and the
        deepest.
    image_size : (int, int), optional
        Height and width in pixels of the images, if not those that the weights are for.

    Examples
    --------
    In a test module that pytest collects:

    >>> from bottleneck.testing import BaseConformance
    >>> class TestMyNet(BaseConformance):
    ...     model = "my_net"
    ...     modules = ("stem", "blocks.3", "classifier")
    """

    model: str
    modules: tuple[str, ...]
    image_size: tuple[int, int] | None = None

    @pytest.fixture(scope="class")
    @classmethod
    def subject(cls, tmp_path_factory: pytest.TempPathFactory) -> Subject:
        """Build the base with random weights and compute what its network does with them."""
        with torch.random.fork_rng(devices=[]):  # other tests of the package have their own
            folder = tmp_path_factory.mktemp("weights")
            return _make_subject(cls.model, cls.modules, folder, cls.image_size)

    def test_features_equal_a_plain_forward_of_the_unmodified_model(self, subject: Subject) -> None:
        """All layers in one pass, also where a later operation works in place."""
        for layer, expected in subject.expected.items():
            assert subject.base.shapes[layer] == tuple(expected.shape[1:])
            assert float(expected.std()) > 0
            gap = (subject.features[layer] - expected).abs().max()
            assert float(gap) <= _MOST * float(expected.abs().max()), layer
            subject.assert_same(layer, subject.features[layer], expected)

    def test_the_deepest_layer_depends_on_the_middle_of_the_network(self, subject: Subject) -> None:
        """Otherwise the comparison above would prove nothing about it."""
        deepest = subject.base.layers[-1]
        with pytest.raises(AssertionError, match="not close"):
            subject.assert_same(deepest, subject.changed, subject.expected[deepest])

    def test_a_base_is_frozen(self, subject: Subject) -> None:
        """The same images give the same values, without gradients."""
        again = subject.base(subject.images)
        for layer, values in subject.features.items():
            assert torch.equal(values, again[layer])
            assert not values.requires_grad

    def test_bfloat16_is_near(self, subject: Subject) -> None:
        """Its error depends on the depth and on the (here random) weights."""
        options: dict[str, Any] = {"weights": subject.weights, "precision": "bf16", "device": "cpu"}
        options["image_size"] = self.image_size
        near = FrozenBase(self.model, subject.base.layers, **options)(subject.images)
        for layer, values in subject.features.items():
            cosines = torch.cosine_similarity(values.flatten(1), near[layer].flatten(1))
            assert float(cosines.min()) > 0.95, layer

    def test_features_depend_neither_on_the_neighbours_nor_on_the_batch_size(
        self, subject: Subject
    ) -> None:
        """An image has the same features in any batch."""
        reversed_order = subject.base(subject.images.flip(0))
        alone = [subject.base(image[None]) for image in subject.images]
        for layer, values in subject.features.items():
            subject.assert_same(layer, reversed_order[layer].flip(0), values)
            subject.assert_same(layer, torch.cat([each[layer] for each in alone]), values)


def _outputs(network: nn.Module, modules: Sequence[str], images: Tensor) -> list[Tensor]:
    """Return what some modules of a network compute, also where a later step is in place."""
    found: dict[str, Tensor] = {}

    def keep(path: str) -> None:
        def hook(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            found[path] = output.clone()

        hooks.append(network.get_submodule(path).register_forward_hook(hook))

    hooks: list[torch.utils.hooks.RemovableHandle] = []
    for path in modules:
        keep(path)
    with torch.inference_mode():
        network(images)
    for hook in hooks:
        hook.remove()
    return [found[path] for path in modules]


def seeded(name: str) -> nn.Module:
    """Return a network with seeded random weights through which signals neither die nor grow.

    Parameters
    ----------
    name : str
        Name of the base.

    Returns
    -------
    torch.nn.Module
        In training mode.
    """
    model = find_model(name)
    torch.default_generator.manual_seed(0)
    network = model.build(model.transform.crop)
    for parameter in network.parameters():
        if not parameter.any():  # biases, and torchvision's classifiers on transformers
            nn.init.normal_(parameter, std=0.02)
        elif parameter.abs().max() < 1e-3:  # ConvNeXt's layer scale, which hides its blocks
            nn.init.uniform_(parameter, 0.5, 1.5)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        network.train()(torch.randn(2, 3, *model.transform.crop))
    return network


def _make_subject(
    name: str, modules: tuple[str, ...], folder: Path, size: tuple[int, int] | None
) -> Subject:
    network = seeded(name)
    weights = str(folder / "weights.pth")
    torch.save(network.state_dict(), weights)
    options: dict[str, Any] = {
        "weights": weights,
        "precision": "fp32",
        "device": "cpu",
        "image_size": size,
    }
    base = FrozenBase(name, modules, **options)
    change: Any = getattr(network, "set_input_size", None)
    if size and change:
        change(img_size=size)
    images = torch.randn(_BATCH, 3, *base.transform.crop)
    expected = _outputs(network.eval(), modules, images)
    changed = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in changed.get_submodule(modules[len(modules) // 2]).parameters():
            if parameter.dim() > 1:
                parameter.mul_(1.5)
    exact = _outputs(network.double(), modules, images[:1].double())
    return Subject(
        base,
        base(images),
        weights,
        modules,
        images,
        dict(zip(base.layers, expected, strict=True)),
        _outputs(changed, modules[-1:], images)[0],
        {
            layer: float((found[:1] - true).abs().max())
            for layer, found, true in zip(base.layers, expected, exact, strict=True)
        },
    )

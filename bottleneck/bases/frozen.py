"""The frozen base: a pretrained network cut at the deepest layer asked for."""

import hashlib
import json
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from PIL import Image

from bottleneck.bases.models import find_model
from bottleneck.bases.network import Network
from bottleneck.bases.weights import check_weights, digest_tensors, load_weights
from bottleneck.errors import UsageError

__all__ = ["SCHEMA_VERSION", "FrozenBase"]

SCHEMA_VERSION = 1
_CANARY_SAMPLES = 32


class FrozenBase:
    """A frozen pretrained network that computes named layers and nothing behind them.

    Evaluation mode, no gradients, float32.

    Parameters
    ----------
    model : str
        A torchvision classification model, ``efficientnet_lite0`` or ``timm:NAME``.
    layers : iterable of str
        Layers by torchvision's node names or their Keras aliases; the model's default layer if
        none is given.
    weights : str
        ``default``, the library's name for them, ``random`` or ``random:SEED``, or a file.

    Attributes
    ----------
    layers : tuple of str
        torchvision's node names, in the order of computation.
    shapes : dict of str to tuple of int
        Layer to the shape of one image's activation.
    transform : Transform
        The preprocessing that belongs to the weights.
    weights_name : str
        The library's name for the weights, ``random:SEED`` or the file's path.
    weights_random : bool
        Whether the weights were never trained.

    Raises
    ------
    UnknownNameError
        No such model, layer or weights.
    UsageError
        A layer that is not an activation with a row per image.
    WeightsError
        The weights cannot be had, or belong to another architecture.

    Examples
    --------
    >>> base = FrozenBase("resnet18", ["layer4"], weights="random")
    >>> base(torch.zeros(1, 3, 224, 224))["layer4.1.relu_1"].shape
    torch.Size([1, 512, 7, 7])
    """

    def __init__(self, model: str, layers: Iterable[str] = (), *, weights: str = "default") -> None:
        self._model = find_model(model)
        self.network = Network(model, self._model.default.build)
        self.network.in_order(layers)  # a misspelled layer is told before weights are loaded
        loaded = load_weights(self._model, weights)
        if loaded.entry is not self._model.default:
            self.network = Network(model, loaded.entry.build)
        self.layers = self.network.in_order(layers or (self.network.default_layer,))
        used = {name for layer in self.layers for name in self.network.tensors(layer)}
        required = used | set(self.network.tensors(self.network.default_layer))
        check_weights(model, loaded, self.network.tensor_shapes, required)
        self.transform = loaded.entry.transform
        self.weights_name = loaded.name
        self.weights_random = loaded.random
        known = loaded.state | self.network.constants
        self._tensors = {
            name: known[name].float() if known[name].is_floating_point() else known[name]
            for name in used
        }
        self._compute = self.network.cut(self.layers, self._tensors)
        shapes = self.network.output_shapes(self.transform.crop)
        for layer in self.layers:
            if layer not in shapes:
                raise UsageError(
                    f"layer {layer!r} of {model} is not an activation with a row per image; "
                    f"'bottleneck layers {model}' lists those that are"
                )
        self.shapes = {layer: shapes[layer] for layer in self.layers}
        self._digests: dict[str, str] = {}

    @property
    def model(self) -> str:
        """The model's name."""
        return self._model.name

    def __call__(self, batch: torch.Tensor) -> dict[str, torch.Tensor]:
        """Compute the layers of a batch of preprocessed images.

        Parameters
        ----------
        batch : torch.Tensor
            float32 of shape (n, 3, height, width).

        Returns
        -------
        dict of str to torch.Tensor
            Layer to activations, float32 of shape (n, ...).
        """
        with torch.inference_mode():
            activations: dict[str, torch.Tensor] = self._compute(batch)
        return activations

    def cut(self, layers: Iterable[str]) -> "FrozenBase":
        """Return a base with the same weights that computes only some of this one's layers."""
        layers = self.network.in_order(layers)
        if layers == self.layers:
            return self
        other = object.__new__(FrozenBase)
        other.__dict__ |= self.__dict__
        other.layers = layers
        other.shapes = {layer: self.shapes[layer] for layer in layers}
        other._compute = self.network.cut(layers, self._tensors)
        return other

    def weights_digest(self, layer: str) -> str:
        """Return the SHA-256 of the weights that decide a layer's value."""
        if layer not in self._digests:
            names = self.network.tensors(layer)
            self._digests[layer] = digest_tensors({name: self._tensors[name] for name in names})
        return self._digests[layer]

    def provenance(self, layer: str, storage: str) -> dict[str, Any]:
        """Return all that decides a layer's stored values, as JSON holds it.

        Parameters
        ----------
        layer : str
            One of `layers`.
        storage : str
            The type in which features are stored: ``float16`` or ``float32``.
        """
        return {
            "schema": SCHEMA_VERSION,
            "architecture": self._model.architecture,
            "weights": self.weights_digest(layer),
            "transform": self.transform.as_dict(),
            "precision": {"compute": "fp32", "storage": storage},
        }

    def fingerprint(self, layer: str, storage: str = "float16") -> str:
        """Return the SHA-256 of `provenance`.

        It covers the weights up to the layer and no others: layers that share them share a bank,
        and a base cut deeper finds the rows that a shallower one has stored.
        """
        text = json.dumps(self.provenance(layer, storage), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def canary(self) -> dict[str, list[list[float]]]:
        """Return reference features of three fixed synthetic images.

        Returns
        -------
        dict of str to list
            Layer to three lists: the root mean square of an image's activations, then up to 32 of
            them at even distances.
        """
        batch = torch.stack([self.transform(image) for image in _canary_images()])
        return {
            layer: [_sample(row.flatten().numpy()) for row in activations]
            for layer, activations in self(batch).items()
        }


def _canary_images() -> list[Image.Image]:
    side = 256
    y, x = np.mgrid[:side, :side]
    patterns = [
        [x, y, (x + y) // 2],
        [x * y // 7, x * x // 5, y * y // 3],
        [(x // 16 + y // 16) % 2 * 255, x // 32 * 32, 255 - y],
    ]
    return [Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8)) for channels in patterns]


def _sample(values: np.ndarray) -> list[float]:
    places = np.linspace(0, len(values) - 1, min(_CANARY_SAMPLES, len(values))).round().astype(int)
    magnitude = float(np.sqrt(np.mean(values.astype(np.float64) ** 2)))
    return [magnitude, *map(float, values[places])]

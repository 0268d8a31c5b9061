"""The frozen base: a pretrained network cut after the deepest requested layer."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from bottleneck.arguments import made
from bottleneck.bases.attending import AttentionPooling
from bottleneck.bases.building import patch_side
from bottleneck.bases.canary import canary_images, computed_alike, sampled
from bottleneck.bases.fusing import fuse
from bottleneck.bases.network import traced
from bottleneck.bases.plain import PlainBase
from bottleneck.bases.precision import choose_precision, find_devices, one_thread
from bottleneck.bases.weights import digest_tensors, load_weights, used_tensors
from bottleneck.bases.zoo import find_model
from bottleneck.errors import UsageError, first_line, reworded
from bottleneck.pooling import check_pool, pool, pooled_shape
from bottleneck.records import Adjustments
from bottleneck.settings import BaseSettings

__all__ = ["SCHEMA_VERSION", "FrozenBase"]

SCHEMA_VERSION = 4
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_SMALL = 10**10
"""Up to this many multiply-adds, one thread is as fast as several."""


class FrozenBase:
    """A frozen pretrained network that computes named layers and nothing after them.

    It is in evaluation mode, without gradients, and optimised by `bottleneck.bases.fusing.fuse`.

    Parameters
    ----------
    model : str or BaseSettings
        One of `model_names`, such as a torchvision classifier; or a name with the prefix of one of
        `bottleneck.bases.SOURCES`, such as ``timm:NAME``; or all settings.
    layers : str or iterable of str
        Layers by torchvision's node names, their Keras aliases, words (``penultimate``), patterns
        (``block*_pool``) or ``all-blocks``; the model's default layer if none is given.
    **options
        The other fields of `bottleneck.settings.BaseSettings`: `weights`, `pool`, `precision`,
        `device`, and changes of the preprocessing.

    Attributes
    ----------
    settings : BaseSettings
        The settings.
    model : str
        The model's name.
    layers : tuple of str
        torchvision's node names, in the order of computation.
    names : dict of str to str
        Layer to its name as given, which messages and tables show.
    shapes : dict of str to tuple of int
        Layer to the shape of its pooled activation of one image.
    axes : dict of str to str
        Layer to the axes of its shape, see `bottleneck.pooling.pool`.
    pools : dict of str to str
        Layer to its pooling: ``none`` for vectors.
    transform : Transform
        The preprocessing.
    adjustments : dict
        Preprocessing settings that differ from the defaults.
    precision : str
        ``fp32``, ``bf16`` or ``fp16``.
    devices : tuple of torch.device
        Devices, each with a copy of the weights.
    weights_name : str
        The library's name for the weights, ``random:SEED`` or the file's path.
    weights_random : bool
        Whether the weights are random.

    Raises
    ------
    UnknownNameError
        A model, layer, weights, interpolation, pooling or precision does not exist.
    UsageError
        A layer has no row per image, does not support the image size, or does not support the
        pooling; a device does not exist; or `keep_aspect` is given for a base or layer that needs a
        fixed image size.
    WeightsError
        The weights are not available, or belong to another architecture.

    Examples
    --------
    >>> base = FrozenBase("resnet18", ["layer4"], weights="random")
    >>> base(torch.zeros(1, 3, 224, 224))["layer4.1.relu_1"].shape
    torch.Size([1, 512, 7, 7])
    """

    def __init__(
        self, model: str | BaseSettings, layers: str | Iterable[str] = (), **options: Any
    ) -> None:
        if isinstance(model, BaseSettings):
            self.settings = settings = made(BaseSettings, model, options)
        else:
            options["device"] = str(options.get("device", "auto"))
            options["layers"] = (layers,) if isinstance(layers, str) else tuple(layers)
            self.settings = settings = BaseSettings(model, **options)
        self._model = find_model(settings.model)
        self.model = self._model.name
        self.weights_name, weights = load_weights(self._model, settings.weights)
        self.weights_random = self.weights_name.startswith("random:")
        self.network = traced(self._model, weights.transform.crop, settings.image_size)
        self.devices = find_devices(settings.device)
        dense = self.network.dense
        self.precision = choose_precision(settings.precision, self.devices[0], dense=dense)
        changed = {key: getattr(settings, key) for key in Adjustments.__annotations__}
        self.adjustments = {
            key: value for key, value in changed.items() if value != getattr(BaseSettings, key)
        }
        if (settings.precision, self.precision, settings.exact_resize) == ("auto", "fp32", None):
            self.adjustments["exact_resize"] = False
        exact = {"exact_resize": self.precision == "fp32"}
        self.transform = weights.transform.adjusted(**exact | self.adjustments)
        if settings.keep_aspect:
            self.transform = replace(self.transform, multiple=patch_side(self.network.root))
        self._choose_layers(settings)  # mistakes are told before weights load
        self._digests: dict[str, str] = {}
        required = self.network.in_order([self._model.default_layer])
        more = self._attention.tensors if self._attention else ()
        with one_thread():
            found = self.weights_name, weights.load(), self.network
            self._tensors = used_tensors(*found, self.layers, required, more=more)
            self._computes = self._cut()
        if settings.image_size is not None or settings.keep_aspect:
            self._check_size()

    def _choose_layers(self, settings: BaseSettings) -> None:
        self.names = self.network.named(settings.layers or (self._model.default_layer,))
        self.layers = tuple(self.names)
        at_sizes = [self.network.sized(size, self.names) for size in self._sizes()]
        self._unpooled = {name: at_sizes[0][name] for name in self.layers}
        attends = settings.pool == "map"
        self._attention = AttentionPooling(self.model, self.network.root) if attends else None
        self.pools: dict[str, str] = {}
        self.axes: dict[str, str] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        for name, layer in self._unpooled.items():
            check_pool(settings.pool, layer.axes, self.names[name], attends=attends)
            self.pools[name] = how = "none" if layer.axes == "C" else settings.pool
            self.axes[name] = layer.axes if settings.pool == "none" else "C"
            shapes = [self._pooled_shape(sized[name].shape, how, name) for sized in at_sizes]
            self.shapes[name] = shapes[0]
            if len(set(shapes)) > 1:
                raise UsageError(
                    f"the shape of layer {self.names[name]!r} depends on the image size, which "
                    f"varies with `keep_aspect`; pool it with `pool`, such as avg"
                )

    def _pooled_shape(self, shape: tuple[int, ...], how: str, layer: str) -> tuple[int, ...]:
        axes = self._unpooled[layer].axes
        if how == "map" and self._attention:
            return self._attention.shape(shape, axes, self.names[layer])
        return pooled_shape(shape, how, axes)

    def _sizes(self) -> list[tuple[int, int]]:
        """Return the input size, and other possible sizes if it varies."""
        height, width = self.transform.crop
        others = [(height, 2 * width), (2 * height, width)] if self.transform.keep_aspect else []
        return [self.transform.crop, *others]

    def _cut(self) -> dict[torch.device, nn.Module]:
        """Return the module that computes the layers, for each device."""
        if self.precision == "fp32" and self.devices[0].type == "cuda":
            # PyTorch lets convolutions round float32 to 10 bits of mantissa by default; the setting
            # is global to all threads, so it cannot be changed for single calls.
            torch.backends.cudnn.allow_tf32 = False
        computes = {}
        for device in self.devices:
            computes[device] = self.network.cut(self.layers, self._tensors)
            fuse(computes[device], _DTYPES[self.precision], device)
        if self._attention:
            self._poolers = {
                device: self._attention.module(self._tensors, device) for device in self.devices
            }
        return computes

    def _check_size(self) -> None:
        """Compute one image, because a size that can be traced may still fail."""
        height, width = self.transform.crop
        refused = f"{self.model} cannot process images of {height} x {width} pixels"
        remedy = "give another `image_size`, or none"
        with reworded(lambda error: UsageError(f"{refused} ({first_line(error)}); {remedy}")):
            for size in self._sizes():
                self(torch.zeros(1, 3, *size))

    def __call__(self, batch: torch.Tensor) -> dict[str, torch.Tensor]:
        """Compute the layers of a batch of preprocessed images.

        Parameters
        ----------
        batch : torch.Tensor
            float32 of shape (n, 3, height, width), on any device.

        Returns
        -------
        dict of str to torch.Tensor
            Layer to pooled activations, float32 of shape (n, ...), on the batch's device if it is
            one of `devices`, else on the first of `devices`.
        """
        device = batch.device if batch.device in self._computes else self.devices[0]
        with torch.inference_mode():
            seen = batch.to(device, _DTYPES[self.precision])
            # Calling the module itself would print a traceback for errors that callers may handle.
            compute = self._computes[device].forward
            with self._mixed(device):
                activations = compute(seen.contiguous(memory_format=torch.channels_last))
            return {
                layer: self._pooled(values.float(), layer, device)
                for layer, values in activations.items()
            }

    def _pooled(self, values: torch.Tensor, layer: str, device: torch.device) -> torch.Tensor:
        how, axes = self.pools[layer], self._unpooled[layer].axes
        if how == "map" and self._attention:
            return self._attention(self._poolers[device], values, axes)
        return pool(values, how, axes)

    def _mixed(self, device: torch.device) -> AbstractContextManager[Any]:
        """Let the own code of a network mix its numbers, in float32, with the base's."""
        if self.precision == "fp32" or not self.network.untraced:
            return nullcontext()
        return torch.autocast(device.type, _DTYPES[self.precision])

    def cut(self, layers: Iterable[str]) -> "FrozenBase":
        """Return a base with the same weights that computes only some of the layers.

        Parameters
        ----------
        layers : iterable of str
            Layers from `layers`.

        Returns
        -------
        FrozenBase
            A base that shares the weights; the same base if no layer is left out.
        """
        layers = self.network.in_order(layers)
        if layers == self.layers:
            return self
        other = object.__new__(FrozenBase)
        other.__dict__ |= self.__dict__ | {"layers": layers}
        other.shapes = {layer: self.shapes[layer] for layer in layers}
        with one_thread():
            other._computes = other._cut()
        return other

    def to_module(self) -> nn.Module:
        """Return a module, not fused and in float32, that maps images to a dict of layers."""
        pools = {name: (self.pools[name], layer.axes) for name, layer in self._unpooled.items()}
        pooled = (pools, self._attention, self._tensors, self.network.root)
        return PlainBase(self.network.cut(self.layers, self._tensors), *pooled)

    def provenance(
        self, layer: str, storage: str, augmentation: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Return everything that affects a layer's stored values, in JSON types.

        Parameters
        ----------
        layer : str
            One of `layers`.
        storage : str
            Data type of stored features: ``float16`` or ``float32``.
        augmentation : mapping, optional
            Everything that affects the pixels of augmented views; only for features of views.

        Returns
        -------
        dict
            Schema, architecture, digest of the weights, transform, pooling, precision and
            augmentation.
        """
        if layer not in self._digests:
            names = {*self.network.tensors(layer)}
            if self.pools[layer] == "map" and self._attention:
                names |= self._attention.tensors.keys()
            self._digests[layer] = digest_tensors({name: self._tensors[name] for name in names})
        found = {
            "schema": SCHEMA_VERSION,
            "architecture": self._model.architecture,
            "weights": self._digests[layer],
            "transform": self.transform.as_dict(),
            "pool": self.pools[layer],
            "precision": {"compute": self.precision, "storage": storage},
        }
        return found if augmentation is None else {**found, "augmentation": augmentation}

    def fingerprint(
        self, layer: str, storage: str = "float16", augmentation: Mapping[str, Any] | None = None
    ) -> str:
        """Return the SHA-256 of `provenance`.

        It covers only the weights up to the layer: layers with equal weights share a bank, and a
        base cut later finds the rows stored by one cut earlier.

        Parameters
        ----------
        layer, storage, augmentation
            As for `provenance`.

        Returns
        -------
        str
            64 hexadecimal digits.
        """
        text = json.dumps(self.provenance(layer, storage, augmentation), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def canary(
        self, pixels: Callable[[np.ndarray], torch.Tensor] | None = None
    ) -> dict[str, list[list[float]]]:
        """Return reference features of three fixed synthetic images.

        Parameters
        ----------
        pixels : callable, optional
            Preprocessing of an image; by default `Transform.pixels`.

        Returns
        -------
        dict of str to list
            Layer to three lists, one per image: the root mean square of the activations, then up to
            32 of them at equal distances.

        Raises
        ------
        UsageError
            The same images give two results.
        """
        see, images = pixels or self.transform.pixels, canary_images()
        cost = len(images) * max(layer.multiply_adds for layer in self._unpooled.values())
        with one_thread() if cost < _SMALL else nullcontext():
            batch = torch.stack([self.transform.normalise(see(each)) for each in images])
            found = computed_alike(self.model, self, batch, own=bool(self.network.untraced))
            return {
                layer: [sampled(row.flatten().cpu().numpy()) for row in activations]
                for layer, activations in found.items()
            }

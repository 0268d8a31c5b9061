"""Find the layers of a network by their names."""

from collections.abc import Iterable

from torch import fx

from bottleneck.arguments import find_layers
from bottleneck.bases.layers import WORDS, Layer
from bottleneck.errors import UnknownNameError, UsageError, did_you_mean

__all__ = ["NamedLayers"]

_ALL_BLOCKS = "all-blocks"


class NamedLayers:
    """The layers of a network and their names, see `bottleneck.bases.network.Network`."""

    name: str
    layers: dict[str, Layer]
    aliases: dict[str, str]
    more_names: dict[str, list[str]]
    blocks: tuple[str, ...]
    modules: dict[str, str]
    nodes: dict[str, fx.Node]

    def alias(self, layer: str) -> str | None:
        """Return the Keras alias of a layer, if it has one.

        Parameters
        ----------
        layer : str
            A key of `layers`.

        Returns
        -------
        str or None

        Raises
        ------
        KeyError
            The network has no such layer.
        """
        first = next(iter(self.layers[layer].aliases), None)
        return None if first in WORDS else first

    def names_of(self, layer: str) -> list[str]:
        """Return all other names of a layer: its aliases, and the modules that it ends.

        Parameters
        ----------
        layer : str
            A key of `layers`.

        Returns
        -------
        list of str

        Raises
        ------
        KeyError
            The network has no such layer.
        """
        known = {*self.layers, *self.aliases}
        ended = [each for each, last in self.modules.items() if last == layer]
        own = [*self.layers[layer].aliases, *self.more_names.get(layer, ())]
        return [*own, *(each for each in ended if each not in known)]

    def resolve(self, wanted: str) -> tuple[str, ...]:
        """Return the layers with a name, in the order of computation.

        Parameters
        ----------
        wanted : str
            A layer, an alias, a module, a pattern such as ``block*_pool``, a block's number or a
            range of them, or ``all-blocks``.

        Returns
        -------
        tuple of str
            Keys of `layers`.

        Raises
        ------
        UnknownNameError
            The network does not have the layer.
        UsageError
            The name is that of an operation without a row per image.
        """
        return tuple(self._found(wanted))

    def _found(self, wanted: str) -> dict[str, str]:
        """Return the layers with a name, and the name of each to show."""
        if wanted == _ALL_BLOCKS and self.blocks:
            return {layer: self.alias(layer) or layer for layer in self.blocks}
        if wanted in self.nodes and wanted not in {*self.layers, *self.aliases}:
            raise UsageError(
                f"layer {wanted!r} of {self.name} does not give one row of activations for each "
                f"image; 'bottleneck layers {self.name}' lists the layers that do"
            )
        layers = {
            name: (*layer.aliases, *self.more_names.get(name, ()))
            for name, layer in self.layers.items()
        }
        if found := find_layers(wanted, layers, patterns=True):
            return found
        words = [_ALL_BLOCKS] if self.blocks else []
        more = [name for own in self.more_names.values() for name in own]
        known = (*words, *self.aliases, *more, *self.layers, *self.modules)
        hint = did_you_mean(wanted, known)
        raise UnknownNameError(
            f"no layer {wanted!r} in {self.name}; 'bottleneck layers {self.name}' lists them "
            f"all{hint}"
        )

    def in_order(self, layers: Iterable[str]) -> tuple[str, ...]:
        """Resolve names and return each layer once, in the order of computation.

        Parameters
        ----------
        layers : iterable of str
            Names for `resolve`.

        Returns
        -------
        tuple of str
            Keys of `layers`.

        Raises
        ------
        UnknownNameError, UsageError
            See `resolve`.
        """
        return tuple(self.named(layers))

    def named(self, layers: Iterable[str]) -> dict[str, str]:
        """Resolve names as `in_order` does, and choose the name of each layer to show.

        Parameters
        ----------
        layers : iterable of str
            Names for `resolve`.

        Returns
        -------
        dict of str to str
            Keys of `layers` to names: the first that the argument has for the layer; for a pattern,
            the name that matches it; for ``all-blocks``, the alias or the layer's own name.

        Raises
        ------
        UnknownNameError, UsageError
            See `resolve`.
        """
        given, names = list(layers), dict[str, str]()
        for name in given:
            for layer, shown in self._found(name).items():
                if layer not in names or (shown == name and names[layer] not in given):
                    names[layer] = shown
        return {layer: names[layer] for layer in self.layers if layer in names}

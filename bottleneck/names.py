"""Look up layers by the names that users give."""

from collections.abc import Iterable, Mapping
from fnmatch import filter as matching

__all__ = ["find_layers"]


def find_layers(
    name: str, layers: Mapping[str, Iterable[str]], *, patterns: bool = False, whole: bool = False
) -> tuple[str, ...]:
    """Return the layers with a name, in order; none if the name is unknown.

    Parameters
    ----------
    name : str
        A layer, an alias, which takes precedence over another layer's own name, or a module, which
        means its last layer (``layer4`` for ``layer4.2.relu_2``).
    layers : mapping of str to iterable of str
        Layers in order, with their aliases.
    patterns : bool
        Whether the name may be a pattern, such as ``block*_pool``.
    whole : bool
        Whether a module means all layers in it.

    Returns
    -------
    tuple of str
        The layers' own names.
    """
    known = {layer: (layer,) for layer in layers}
    known |= {alias: (layer,) for layer, aliases in layers.items() for alias in aliases}
    if name in known:
        return known[name]
    modules: dict[str, tuple[str, ...]] = {}
    for layer in layers:
        parts = layer.split(".")
        for depth in range(1, len(parts)):
            module = ".".join(parts[:depth])
            modules[module] = (*modules.get(module, ()), layer) if whole else (layer,)
    if name in modules:
        return modules[name]
    for among in (known, modules) if patterns else ():
        found = {layer for each in matching(among, name) for layer in among[each]}
        if found:
            return tuple(layer for layer in layers if layer in found)
    return ()

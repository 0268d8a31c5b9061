"""Where models come from, by the prefix of a model's name."""

from collections.abc import Callable
from dataclasses import dataclass

from bottleneck.bases.huggingface import from_transformers
from bottleneck.bases.models import Model
from bottleneck.bases.openclip import from_open_clip
from bottleneck.bases.timm_folders import from_folder, from_hub
from bottleneck.bases.timm_models import from_timm
from bottleneck.errors import UnknownNameError, did_you_mean

__all__ = ["SOURCES", "Source", "find_source"]


@dataclass(frozen=True)
class Source:
    """A source of models, whose names have a prefix.

    Attributes
    ----------
    form : str
        What users type, such as ``timm:NAME``.
    says : str
        What these models are, as a part of a sentence.
    find : callable
        Takes what follows the prefix, and the whole name, and returns the `Model`. It loads no
        weights; it raises `UnknownNameError` if there is no such model.
    """

    form: str
    says: str
    find: Callable[[str, str], Model]

    @property
    def prefix(self) -> str:
        """The prefix, without its colon."""
        return self.form.partition(":")[0]


SOURCES = (
    Source("timm:NAME", "timm's own, or NAME.TAG for particular weights", from_timm),
    Source("hf-hub:ORG/NAME", "timm's networks on the Hugging Face Hub", from_hub),
    Source("local-dir:DIR", "timm's networks in a folder", from_folder),
    Source("open_clip:NAME/TAG", "OpenCLIP's image towers", from_open_clip),
    Source("hf:ORG/NAME", "models of Transformers on the Hub, or in a folder", from_transformers),
)
"""All sources besides the models that have a name of their own."""


def find_source(name: str) -> Source | None:
    """Return the source of a model by its name.

    Parameters
    ----------
    name : str
        The model's name.

    Returns
    -------
    Source or None
        None if the name has no prefix.

    Raises
    ------
    UnknownNameError
        No source has the prefix, or nothing follows it.
    """
    prefix, colon, rest = name.partition(":")
    if not colon:
        return None
    by_prefix = {each.prefix: each for each in SOURCES}
    if prefix in by_prefix and rest:
        return by_prefix[prefix]
    forms = ", ".join(each.form for each in SOURCES)
    near = did_you_mean(prefix, by_prefix) if prefix not in by_prefix else ""
    raise UnknownNameError(f"no model {name!r}; expected one of {forms}{near}")

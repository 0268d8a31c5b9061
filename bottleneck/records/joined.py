"""The source of joined features: several layers of one image set, side by side."""

import hashlib
from dataclasses import dataclass, replace
from typing import Annotated, Any, Self, TypeAlias

from pydantic import Discriminator, Tag, model_serializer

from bottleneck.errors import DataError, UsageError, counted
from bottleneck.records import record
from bottleneck.records.record import CacheRecord, without_defaults
from bottleneck.records.runs import FeatureSource

_PLUS = " + "
_LONGEST = 120
"""Of the part of a file name that names joined layers; of more, their number and a digest is."""


@dataclass(frozen=True, kw_only=True)
class JoinedSource(CacheRecord):
    """The source of joined features: layers of one image set whose columns are side by side.

    Attributes
    ----------
    parts : tuple of FeatureSource
        Two or more different ones, in the order of their columns; of one or several bases.
    split_digests : dict of str to str, optional
        As for `FeatureSource`.

    Raises
    ------
    UsageError
        There are fewer than two parts, two are the same, or they have other images or views.
    """

    parts: tuple[FeatureSource, ...]
    split_digests: dict[str, record.Digest] | None = None

    _sparse = model_serializer(mode="wrap")(without_defaults)

    def __post_init__(self) -> None:
        names = [str(part) for part in self.parts]
        if len(self.parts) < 2:  # noqa: PLR2004 - to be joined
            raise UsageError(
                f"joined features need at least two layers, got {', '.join(names) or 'none'}; name "
                f"several with `layers`, `pools` or `models`, or leave `join` out"
            )
        if twice := [part for part in self.parts if self.parts.count(part) > 1]:
            raise UsageError(
                f"{twice[0]} is given twice, but joined layers must differ; name each layer once"
            )
        if len(sets := dict.fromkeys(part.image_set for part in self.parts)) > 1:
            raise UsageError(
                f"layers of different image sets cannot be joined, got {', '.join(map(repr, sets))}"
                f"; choose one with `image_set`, or extract all layers of one set"
            )
        if len(views := dict.fromkeys((part.views, part.policy) for part in self.parts)) > 1:
            each = [f"{counted(n, 'view')} of {policy}" if n else "none" for n, policy in views]
            raise UsageError(
                f"joined layers must have the same augmented views, got {' and '.join(each)}; "
                f"give `views=0`, or extract the layers with the same `views` and `augment`"
            )

    def __hash__(self) -> int:
        return hash(self.parts)

    @property
    def image_set(self) -> str:
        """Name of the image set."""
        return self.parts[0].image_set

    @property
    def model(self) -> str:
        """The models, each once."""
        return _PLUS.join(dict.fromkeys(part.model for part in self.parts))

    @property
    def layer_name(self) -> str:
        """The names of the layers to show."""
        return _PLUS.join(part.layer_name for part in self.parts)

    @property
    def pool(self) -> str:
        """The poolings, each once."""
        return _PLUS.join(dict.fromkeys(part.pool for part in self.parts))

    @property
    def views(self) -> int:
        """Augmented views of each training image."""
        return self.parts[0].views

    @property
    def policy(self) -> str | None:
        """Name of their augmentation policy."""
        return self.parts[0].policy

    @property
    def weights_random(self) -> bool:
        """Whether the weights of a base are random."""
        return any(part.weights_random for part in self.parts)

    @property
    def made_by(self) -> str:
        """The command that stored the features, and stores them again."""
        return self.parts[0].made_by

    @property
    def features(self) -> tuple[Any, ...]:
        """What tells features of unaugmented images apart."""
        return tuple(part.features for part in self.parts)

    def with_views(self, views: int) -> Self:
        """Return the source with only the first views, or with none.

        Parameters
        ----------
        views : int
            Number of augmented views.

        Returns
        -------
        JoinedSource
        """
        return replace(self, parts=tuple(part.with_views(views) for part in self.parts))

    def named(self, names: str) -> Self:
        """Return the source with other names of the layers to show, given as in `layer_name`.

        Parameters
        ----------
        names : str
            Of another number of layers, they are ignored.

        Returns
        -------
        JoinedSource
        """
        each = names.split(_PLUS)
        if len(each) != len(self.parts):
            return self
        named = zip(self.parts, each, strict=True)
        return replace(self, parts=tuple(replace(part, typed=name) for part, name in named))

    def logged(self) -> dict[str, Any]:
        """Return the source in JSON types, as an experiment of a sweep has it in its settings.

        Returns
        -------
        dict of str to Any
            The parts without the names by which their layers were chosen; and in words what a
            single source has by these names.
        """
        known = replace(self, parts=tuple(replace(part, typed=None) for part in self.parts))
        shown = {name: getattr(self, name) for name in ("image_set", "model", "pool")}
        if self.views:
            shown |= {"views": self.views, "policy": self.policy}
        return {
            **known.as_dict(),
            **shown,
            "layer": _PLUS.join(part.layer for part in self.parts),
            "typed": self.layer_name,
        }

    @property
    def slug(self) -> str:
        """Return models, layers and poolings as a part of a file name."""
        name = "+".join(part.slug for part in self.parts)
        if len(name) > _LONGEST:
            digest = hashlib.sha256(name.encode()).hexdigest()[:8]
            name = f"{self.parts[0].slug[:_LONGEST]}+{len(self.parts) - 1}-layers-{digest}"
        return name

    def __str__(self) -> str:
        """Return model and layer of each part, with what differs from the defaults."""
        return _PLUS.join(map(str, self.parts))


def _kind(source: Any) -> str:
    """Return the tag of a source, an object or content of JSON."""
    joined = "parts" in source if isinstance(source, dict) else isinstance(source, JoinedSource)
    return "<joined>" if joined else "<one>"


AnySource: TypeAlias = FeatureSource | JoinedSource
"""Of the features of a head: one layer, or several joined side by side."""

RecordedSource = Annotated[
    Annotated[FeatureSource, Tag("<one>")] | Annotated[JoinedSource, Tag("<joined>")],
    Discriminator(_kind),
]
"""The same as a field of a record. `sentence_of` leaves the tags out."""


def known_source(source: AnySource | None) -> AnySource:
    """Return a head's `source`; `DataError` if it has none.

    Parameters
    ----------
    source : FeatureSource, JoinedSource or None
        The head's source.

    Returns
    -------
    FeatureSource or JoinedSource
        The given source.

    Raises
    ------
    DataError
        The source is None.
    """
    if source is None:
        raise DataError(
            "the head does not record which features it was fitted on; fit it with "
            "bottleneck.fit_head, which records them"
        )
    return source


def with_parts(source: AnySource, **changes: Any) -> AnySource:
    """Return a source with the same changes in each of its parts.

    Parameters
    ----------
    source : FeatureSource or JoinedSource
        The source.
    **changes
        Fields of `FeatureSource`.

    Returns
    -------
    FeatureSource or JoinedSource
    """
    parts = tuple(replace(each, **changes) for each in source.parts)
    return replace(source, parts=parts) if isinstance(source, JoinedSource) else parts[0]


def single_source(source: AnySource | None) -> FeatureSource:
    """Return the source of a head on one layer, which can be fine-tuned.

    Parameters
    ----------
    source : FeatureSource, JoinedSource or None
        The head's source.

    Returns
    -------
    FeatureSource

    Raises
    ------
    DataError
        The source is None.
    UsageError
        The head was fitted on joined features.
    """
    known = known_source(source)
    if isinstance(known, JoinedSource):
        last = known.parts[-1]
        raise UsageError(
            f"the head was fitted on joined features ({known}), but fine-tuning trains a head "
            f"behind one layer; fit one with 'bottleneck fit-head --model {last.model} --layer "
            f"{last.layer_name}', and fine-tune from that"
        )
    return known

"""What fine-tuning gave, beside the head that it started from, on the same validation images."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bottleneck.errors import WeightsError
from bottleneck.experiments.intervals import paired_gain
from bottleneck.folders import is_leftover
from bottleneck.records import AnySource, FeatureSource, ModelRecord, read_record

__all__ = ["FineTuned", "fine_tuned", "same_rows"]

_JUDGED = ("train", "val")

_RECORD_FILE = "model.json"


@dataclass(frozen=True)
class FineTuned:
    """A fine-tuned model and the head that it started from, on the same validation images.

    The head was fitted without these images. The epoch was chosen on them; each of five parts is
    therefore scored by the epoch that is best on the other four.

    Attributes
    ----------
    model : str
        The model's folder.
    source : FeatureSource
        The features of the head at the start.
    unfreeze : str
        The first layer that was trained.
    images : int
        Number of distinct validation images.
    before, after : float
        Accuracy of the head at the start, and of the fine-tuned model.
    gain : float
        Their difference.
    interval : tuple of float
        95% confidence interval of the gain, paired over the images, for this training: others
        differ by their seed, too. Images of one group count as one.
    unchanged : bool
        Whether no epoch was shown to be better than the head, so that the network is unchanged.
    """

    model: str
    source: FeatureSource
    unfreeze: str
    images: int
    before: float
    after: float
    gain: float
    interval: tuple[float, float]
    unchanged: bool

    @classmethod
    def of(cls, model: str, record: ModelRecord) -> "FineTuned | None":
        """Return what the record of a model tells.

        Parameters
        ----------
        model : str
            The model's folder.
        record : ModelRecord
            Its ``model.json``.

        Returns
        -------
        FineTuned or None
            None for a record of an earlier version, or of a single image.
        """
        judged = list({each["image"]: each for each in record.judged}.values())
        count = len(judged)
        if count < 2:  # noqa: PLR2004 - an interval needs two
            return None
        before, after = (sum(each[key] for each in judged) / count for key in ("before", "after"))
        changes = [float(each["after"] - each["before"]) for each in judged]
        groups = [each.get("group", each["image"]) for each in judged]
        gain, interval = paired_gain(changes, groups)
        unfreeze = str(record.settings.get("unfreeze", ""))
        start, unchanged = record.started_from, not record.best_epoch
        return cls(model, start, unfreeze, count, before, after, gain, interval, unchanged)

    @property
    def shown_gain(self) -> str:
        """The gain with its interval, as text."""
        if self.unchanged:
            return "none, the network is unchanged"
        low, high = self.interval
        return f"{self.gain:+.3f} ({low:+.3f} to {high:+.3f})"

    def as_dict(self) -> dict[str, Any]:
        """Return the result in JSON types."""
        return {**vars(self), "source": self.source.as_dict(), "interval": list(self.interval)}


def fine_tuned(heads: str | Path, source: AnySource | None = None) -> list[FineTuned]:
    """Return the results of the fine-tuned models in a folder of heads.

    Parameters
    ----------
    heads : str or Path
        The folder, which need not exist.
    source : FeatureSource or JoinedSource, optional
        Only of those that started from a head on these features of the same images and labels.

    Returns
    -------
    list of FineTuned
        In the order of the models' names. Damaged models and those of earlier versions, which did
        not record the result by image, are left out.
    """
    found = []
    for file in sorted(Path(heads).glob(f"*/{_RECORD_FILE}")):
        if is_leftover(file.parent.name):
            continue
        with suppress(WeightsError):
            found.append(FineTuned.of(str(file.parent), read_record(file, ModelRecord)))
    started = [each for each in found if each]
    return [each for each in started if source is None or same_rows(each.source, source)]


def same_rows(one: AnySource, other: AnySource) -> bool:
    """Return whether two sources are the same features of the same images and labels.

    Parameters
    ----------
    one, other : FeatureSource or JoinedSource
        Of images for training and validation; where one does not know which, it is taken for the
        same ones.

    Returns
    -------
    bool
    """
    digests = [each.split_digests for each in (one, other) if each.split_digests is not None]
    parts = {tuple(each.get(name) for name in _JUDGED) for each in digests}
    return one.features == other.features and len(parts) <= 1

"""The features of an experiment, read from its settings."""

from dataclasses import fields
from typing import Any

from bottleneck.errors import DataError
from bottleneck.experiments.log import Experiment
from bottleneck.records import AnySource, FeatureSource, JoinedSource
from bottleneck.records.record import parse_record

__all__ = ["source_of"]


def source_of(experiment: Experiment) -> AnySource:
    """Return the features that an experiment was fitted on.

    Parameters
    ----------
    experiment : Experiment
        An experiment that `bottleneck.run_sweep` has logged.

    Returns
    -------
    FeatureSource or JoinedSource
        With the digests of the splits at that time.

    Raises
    ------
    DataError
        The experiment was not logged by a sweep.
    """
    known = experiment.settings
    kind: Any = JoinedSource if "parts" in known else FeatureSource
    facts = {each.name: known[each.name] for each in fields(kind) if each.name in known}
    try:
        source: AnySource = parse_record(facts, kind)
        return source.named(str(experiment.layer)) if isinstance(source, JoinedSource) else source
    except ValueError as error:
        raise DataError(
            f"experiment {experiment.number} does not say which features it was fitted on "
            f"({error}); give the number of one that 'bottleneck sweep' has logged"
        ) from error

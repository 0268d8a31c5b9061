"""Experiments as MLflow's runs."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

from bottleneck.errors import MissingExtraError, UsageError, first_line
from bottleneck.experiments.compare import scores
from bottleneck.experiments.log import Experiment

__all__ = ["log_to_mlflow"]

_MOST_METRICS = 1000
"""That MLflow takes at once."""
_LONGEST_PARAMETER = 6000
_KEY = "bottleneck.key"


def log_to_mlflow(
    experiments: Iterable[Experiment], uri: str, experiment_name: str = "bottleneck"
) -> int:
    """Log experiments as runs of one MLflow experiment; those that it has already stay as they are.

    A run's parameters are the settings, those within others as ``outer.inner``. Its metrics are
    each metric's mean over the folds under its own name, the deviation as ``METRIC_std``, the folds
    as the steps of ``METRIC_per_fold``, and ``seconds``. Its tags are the experiment's number, key
    and environment.

    MLflow's telemetry is off in this process from then on, unless the environment variable
    MLFLOW_DISABLE_TELEMETRY says otherwise: it would send reports to its makers.

    Parameters
    ----------
    experiments : iterable of Experiment
        What to log.
    uri : str
        MLflow's tracking URI, such as ``sqlite:///mlflow.db`` or ``http://HOST:5000``.
    experiment_name : str
        The MLflow experiment; made if need be.

    Returns
    -------
    logged : int
        How many were not there yet.

    Raises
    ------
    MissingExtraError
        MLflow, or what it needs for such an URI, is not installed.
    UsageError
        MLflow cannot use what the URI names.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read when MLflow is imported
    try:
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        client = MlflowClient(uri)
        found = client.get_experiment_by_name(experiment_name)
        identity = found.experiment_id if found else client.create_experiment(experiment_name)
        return sum(_log(client, identity, each) for each in experiments)
    except ImportError as error:
        raise MissingExtraError(
            f"logging to MLflow needs a package that is not installed ({error}); run 'pip "
            f"install bottleneck-features[mlflow]'"
        ) from None
    except (MlflowException, SQLAlchemyError) as error:
        raise UsageError(
            f"MLflow cannot log to {uri!r} ({first_line(error)}); give a tracking "
            f"URI such as sqlite:///mlflow.db or http://HOST:5000"
        ) from error


def _log(client: Any, identity: str, experiment: Experiment) -> bool:
    """Log an experiment; return whether it was not there yet."""
    from mlflow.entities import Param

    # A run that was not finished is one that was killed, and is not counted.
    there = f"tags.`{_KEY}` = '{experiment.key}' AND attributes.status = 'FINISHED'"
    if client.search_runs([identity], there, max_results=1):
        return False
    end = round(1000 * datetime.fromisoformat(experiment.created).timestamp())
    tags = {
        "bottleneck.number": str(experiment.number),
        _KEY: experiment.key,
        **_texts(experiment.environment, "environment."),
    }
    start, name = end - round(1000 * experiment.seconds), f"experiment {experiment.number}"
    run = client.create_run(identity, start_time=start, tags=tags, run_name=name).info.run_id
    client.log_batch(run, params=[Param(*each) for each in _texts(experiment.settings).items()])
    metrics = list(_metrics(experiment, end))
    for first in range(0, len(metrics), _MOST_METRICS):
        client.log_batch(run, metrics=metrics[first : first + _MOST_METRICS])
    client.set_terminated(run, end_time=end)
    return True


def _metrics(experiment: Experiment, time: int) -> Iterator[Any]:
    from mlflow.entities import Metric

    yield Metric("seconds", experiment.seconds, time, 0)
    for name, score in scores(experiment).items():
        yield Metric(name, score.mean, time, 0)
        if score.std is not None:
            yield Metric(f"{name}_std", score.std, time, 0)
        for step, fold in enumerate(experiment.folds):
            yield Metric(f"{name}_per_fold", fold[name], time, step)


def _texts(content: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return names and texts as MLflow takes them."""
    found: dict[str, str] = {}
    for name, value in content.items():
        if isinstance(value, Mapping):
            found |= _texts(value, f"{prefix}{name}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value)
            found[prefix + name] = text[:_LONGEST_PARAMETER]
    return found

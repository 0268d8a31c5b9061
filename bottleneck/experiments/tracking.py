"""Where experiments run, and their copies in MLflow."""

import json
import os
import platform
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from bottleneck.errors import MissingExtraError, UsageError, first_line
from bottleneck.experiments.compare import scores
from bottleneck.experiments.log import Experiment

__all__ = ["environment", "log_to_mlflow"]

_LONGEST_PARAMETER = 6000
_KEY = "bottleneck.key"
_PACKAGES = ("bottleneck-features", "torch", "scikit-learn", "numpy", "scipy", "h5py")


def environment() -> dict[str, Any]:
    """Return the versions, platform and number of processors that experiments are run with.

    Returns
    -------
    dict of str to Any
        Package to version, and ``python``, ``platform``, ``machine`` and ``processors``.
    """
    found = {}
    for package in _PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return {
        **found,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "processors": os.cpu_count(),
    }


def log_to_mlflow(
    experiments: Iterable[Experiment], uri: str, experiment_name: str = "bottleneck"
) -> int:
    """Log experiments as runs of one MLflow experiment; existing runs are left unchanged.

    A run's parameters are the settings, nested ones as ``outer.inner``. Its metrics are each
    metric's mean over the folds under its own name, the standard deviation as ``METRIC_std``, the
    folds as the steps of ``METRIC_per_fold``, and ``seconds``. Its tags are the experiment's
    number, key and environment.

    This turns off MLflow's telemetry in this process, unless the environment variable
    MLFLOW_DISABLE_TELEMETRY is set.

    Parameters
    ----------
    experiments : iterable of Experiment
        Experiments to log.
    uri : str
        MLflow's tracking URI, such as ``sqlite:///mlflow.db`` or ``http://HOST:5000``.
    experiment_name : str
        Name of the MLflow experiment; created if it does not exist.

    Returns
    -------
    logged : int
        Number of new runs.

    Raises
    ------
    MissingExtraError
        MLflow, or a package that it needs for this URI, is not installed.
    UsageError
        MLflow cannot use the URI.
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
            f"logging to MLflow needs a package that is not installed ({error}); run 'pip install "
            f"-e '.[mlflow]''"
        ) from None
    except (MlflowException, SQLAlchemyError) as error:
        raise UsageError(
            f"MLflow cannot log to {uri!r} ({first_line(error)}); give a tracking "
            f"URI such as sqlite:///mlflow.db or http://HOST:5000"
        ) from error


def _log(client: Any, identity: str, experiment: Experiment) -> bool:
    """Log an experiment; return whether it is new."""
    from mlflow.entities import Param

    # An unfinished run was interrupted, and is ignored.
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
    params = [Param(*each) for each in _texts(experiment.settings).items()]
    client.log_batch(run, list(_metrics(experiment, end)), params)
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
    """Return names and values as texts for MLflow."""
    found: dict[str, str] = {}
    for name, value in content.items():
        if isinstance(value, Mapping):
            found |= _texts(value, f"{prefix}{name}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value)
            found[prefix + name] = text[:_LONGEST_PARAMETER]
    return found

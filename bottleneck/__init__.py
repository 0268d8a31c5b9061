"""Run a frozen pretrained network over images once, keep its activations, train heads in seconds.

The names below load on first use, so that ``import bottleneck`` itself loads neither torch nor
scikit-learn.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bottleneck.advise import advise_on as advise_on
    from bottleneck.bases.frozen import FrozenBase as FrozenBase
    from bottleneck.cache import Cache as Cache
    from bottleneck.evaluate import evaluate_head as evaluate_head
    from bottleneck.experiments import ExperimentLog as ExperimentLog
    from bottleneck.extract import extract_features as extract_features
    from bottleneck.features import features_of as features_of
    from bottleneck.features import load_features as load_features
    from bottleneck.features import select_features as select_features
    from bottleneck.features import select_layers as select_layers
    from bottleneck.finetune import FinetuneSettings as FinetuneSettings
    from bottleneck.heads import MLP as MLP
    from bottleneck.heads import Head as Head
    from bottleneck.heads import fit_head as fit_head
    from bottleneck.heads.estimator import HeadClassifier as HeadClassifier
    from bottleneck.images import ImageSet as ImageSet
    from bottleneck.predict import load_base as load_base
    from bottleneck.predict import predict_images as predict_images
    from bottleneck.sweep import Sweep as Sweep
    from bottleneck.sweep import run_sweep as run_sweep
    from bottleneck.transformer import BottleneckFeatures as BottleneckFeatures

__version__ = "2026.11.0"

_MODULE_OF = {
    "BottleneckFeatures": "transformer",
    "Cache": "cache",
    "ExperimentLog": "experiments",
    "FinetuneSettings": "finetune",
    "FrozenBase": "bases.frozen",
    "Head": "heads",
    "HeadClassifier": "heads.estimator",
    "ImageSet": "images",
    "MLP": "heads",
    "Sweep": "sweep",
    "advise_on": "advise",
    "evaluate_head": "evaluate",
    "extract_features": "extract",
    "features_of": "features",
    "fit_head": "heads",
    "load_base": "predict",
    "load_features": "features",
    "predict_images": "predict",
    "run_sweep": "sweep",
    "select_features": "features",
    "select_layers": "features",
}

__all__ = [
    "MLP",
    "BottleneckFeatures",
    "Cache",
    "ExperimentLog",
    "FinetuneSettings",
    "FrozenBase",
    "Head",
    "HeadClassifier",
    "ImageSet",
    "Sweep",
    "__version__",
    "advise_on",
    "evaluate_head",
    "extract_features",
    "features_of",
    "fit_head",
    "load_base",
    "load_features",
    "predict_images",
    "run_sweep",
    "select_features",
    "select_layers",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

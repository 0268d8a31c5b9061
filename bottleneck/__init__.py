"""Run a frozen pretrained network over images once, keep its activations, train heads in seconds.

The names below are imported on first use, so that ``import bottleneck`` itself imports neither
torch nor scikit-learn.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bottleneck.advise import advise_on as advise_on
    from bottleneck.bases.frozen import FrozenBase as FrozenBase
    from bottleneck.cache import Cache as Cache
    from bottleneck.evaluate import evaluate_head as evaluate_head
    from bottleneck.evaluate import misclassified as misclassified
    from bottleneck.experiments import ExperimentLog as ExperimentLog
    from bottleneck.export import export_head as export_head
    from bottleneck.export.archive import unpack_head as unpack_head
    from bottleneck.extract import extract_features as extract_features
    from bottleneck.features import features_of as features_of
    from bottleneck.features import join_layers as join_layers
    from bottleneck.features import load_features as load_features
    from bottleneck.features import select_features as select_features
    from bottleneck.features import select_layers as select_layers
    from bottleneck.finetune import finetune_head as finetune_head
    from bottleneck.heads import MLP as MLP
    from bottleneck.heads import Head as Head
    from bottleneck.heads import fit_head as fit_head
    from bottleneck.heads.bases import load_base as load_base
    from bottleneck.heads.bases import load_bases as load_bases
    from bottleneck.heads.estimator import HeadClassifier as HeadClassifier
    from bottleneck.images import ImageSet as ImageSet
    from bottleneck.lookup import feature_rows as feature_rows
    from bottleneck.predict import predict_images as predict_images
    from bottleneck.predict.predictor import Predictor as Predictor
    from bottleneck.report import make_report as make_report
    from bottleneck.report import write_report as write_report
    from bottleneck.settings import AdviseSettings as AdviseSettings
    from bottleneck.settings import ExportSettings as ExportSettings
    from bottleneck.settings import ExtractSettings as ExtractSettings
    from bottleneck.settings import FinetuneSettings as FinetuneSettings
    from bottleneck.settings import FitSettings as FitSettings
    from bottleneck.settings import PredictorSettings as PredictorSettings
    from bottleneck.settings import PredictSettings as PredictSettings
    from bottleneck.settings import ReportSettings as ReportSettings
    from bottleneck.settings import ServeSettings as ServeSettings
    from bottleneck.settings import SuggestSettings as SuggestSettings
    from bottleneck.settings import SuspectSettings as SuspectSettings
    from bottleneck.settings import SweepSettings as SweepSettings
    from bottleneck.similar import similar_images as similar_images
    from bottleneck.suggest import suggest_images as suggest_images
    from bottleneck.suspects import find_suspects as find_suspects
    from bottleneck.sweep import run_sweep as run_sweep
    from bottleneck.transformer import BottleneckFeatures as BottleneckFeatures

__version__ = "2026.12.0"

_NAMES = {
    "advise": "advise_on",
    "bases.frozen": "FrozenBase",
    "cache": "Cache",
    "evaluate": "evaluate_head misclassified",
    "experiments": "ExperimentLog",
    "export": "export_head",
    "export.archive": "unpack_head",
    "extract": "extract_features",
    "features": "features_of join_layers load_features select_features select_layers",
    "finetune": "finetune_head",
    "heads": "MLP Head fit_head",
    "heads.bases": "load_base load_bases",
    "heads.estimator": "HeadClassifier",
    "images": "ImageSet",
    "lookup": "feature_rows",
    "predict": "predict_images",
    "predict.predictor": "Predictor",
    "report": "make_report write_report",
    "settings": "AdviseSettings ExportSettings ExtractSettings FinetuneSettings FitSettings "
    "PredictSettings PredictorSettings ReportSettings ServeSettings SuggestSettings "
    "SuspectSettings SweepSettings",
    "similar": "similar_images",
    "suggest": "suggest_images",
    "suspects": "find_suspects",
    "sweep": "run_sweep",
    "transformer": "BottleneckFeatures",
}
_MODULE_OF = {name: module for module, names in _NAMES.items() for name in names.split()}

__all__ = ["__version__", *_MODULE_OF]  # noqa: PLE0604 - all of them are texts


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

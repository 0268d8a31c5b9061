"""The settings of every stage: the library, the command line and ``bottleneck.toml`` read these."""

from bottleneck.settings import auto, features, heads, results, serving
from bottleneck.settings.auto import *  # noqa: F403
from bottleneck.settings.features import *  # noqa: F403
from bottleneck.settings.heads import *  # noqa: F403
from bottleneck.settings.results import *  # noqa: F403
from bottleneck.settings.serving import *  # noqa: F403

__all__ = [  # noqa: PLE0604 - all are texts
    *auto.__all__,
    *features.__all__,
    *heads.__all__,
    *results.__all__,
    *serving.__all__,
]

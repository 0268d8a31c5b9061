"""Where images lie: files, members of archives and tables, and objects behind URLs.

An image's path is one text wherever it lies, such as ``data/x.tar/cat/001.jpg``, and one function
opens it.
"""

from bottleneck.sources.columns import Rows
from bottleneck.sources.members import Container
from bottleneck.sources.memory import Remembered, digests_remembered, remembered
from bottleneck.sources.objects import SCHEME as OBJECTS
from bottleneck.sources.opening import (
    container_at,
    exists,
    is_container,
    open_source,
    read_source,
    reasons_told,
    version_of,
)
from bottleneck.sources.places import Address, is_remote, is_web, location, suffix_of
from bottleneck.sources.remote import list_remote
from bottleneck.sources.schema import LABELS, PATHS

__all__ = [
    "LABELS",
    "OBJECTS",
    "PATHS",
    "Address",
    "Container",
    "Remembered",
    "Rows",
    "container_at",
    "digests_remembered",
    "exists",
    "is_container",
    "is_remote",
    "is_web",
    "list_remote",
    "location",
    "open_source",
    "read_source",
    "reasons_told",
    "remembered",
    "suffix_of",
    "version_of",
]

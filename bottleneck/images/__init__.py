"""Image sets: find, digest, label, split and decode images, without features."""

from bottleneck.images.compare import (
    NearDuplicates,
    check_replaceable,
    find_near_duplicates,
    folder_of,
    replacement_of,
)
from bottleneck.images.corrections import correct_labels
from bottleneck.images.groups import group_mates, groups_of
from bottleneck.images.items import (
    SPLITS,
    ImageItem,
    digests_of_file,
    in_threads,
    read_file,
    readers_for,
    same_images,
)
from bottleneck.images.pixels import (
    MAX_PIXELS,
    Decoded,
    decode,
    decode_whole,
    read_size,
    rgb_of,
)
from bottleneck.images.saved import read_saved
from bottleneck.images.sets import ImageSet
from bottleneck.images.splits import trained
from bottleneck.images.summary import ClassSize, Groups, Identical, Summary, summarize
from bottleneck.images.tables import read_table
from bottleneck.records import RejectedImage
from bottleneck.sources import digests_remembered

__all__ = [
    "MAX_PIXELS",
    "SPLITS",
    "ClassSize",
    "Decoded",
    "Groups",
    "Identical",
    "ImageItem",
    "ImageSet",
    "NearDuplicates",
    "RejectedImage",
    "Summary",
    "check_replaceable",
    "correct_labels",
    "decode",
    "decode_whole",
    "digests_of_file",
    "digests_remembered",
    "find_near_duplicates",
    "folder_of",
    "group_mates",
    "groups_of",
    "in_threads",
    "read_file",
    "read_saved",
    "read_size",
    "read_table",
    "readers_for",
    "replacement_of",
    "rgb_of",
    "same_images",
    "summarize",
    "trained",
]

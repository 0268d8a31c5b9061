"""Image sets: find, digest, label, split and decode images, without features."""

from bottleneck.images.alike import NearDuplicates, find_near_duplicates
from bottleneck.images.changes import check_replaceable, replacement_of
from bottleneck.images.digests import digests_of_file
from bottleneck.images.find import SPLITS, ImageItem, in_threads, read_file
from bottleneck.images.pixels import MAX_PIXELS, Decoded, decode, decode_whole, read_size
from bottleneck.images.sets import ImageSet
from bottleneck.images.splits import trained
from bottleneck.images.summary import ClassSize, Identical, Summary, summarize
from bottleneck.images.tables import read_saved, read_table
from bottleneck.records import RejectedImage

__all__ = [
    "MAX_PIXELS",
    "SPLITS",
    "ClassSize",
    "Decoded",
    "Identical",
    "ImageItem",
    "ImageSet",
    "NearDuplicates",
    "RejectedImage",
    "Summary",
    "check_replaceable",
    "decode",
    "decode_whole",
    "digests_of_file",
    "find_near_duplicates",
    "in_threads",
    "read_file",
    "read_saved",
    "read_size",
    "read_table",
    "replacement_of",
    "summarize",
    "trained",
]

"""Image sets: find, digest, label, split and decode images, without features."""

from bottleneck.images.find import SPLITS, ImageItem, in_threads, read_file
from bottleneck.images.pixels import NearDuplicates, decode, find_near_duplicates, read_size
from bottleneck.images.sets import ImageSet
from bottleneck.images.splits import trained
from bottleneck.images.summary import ClassSize, Identical, Summary, summarize
from bottleneck.images.tables import read_manifest
from bottleneck.records import RejectedImage

__all__ = [
    "SPLITS",
    "ClassSize",
    "Identical",
    "ImageItem",
    "ImageSet",
    "NearDuplicates",
    "RejectedImage",
    "Summary",
    "decode",
    "find_near_duplicates",
    "in_threads",
    "read_file",
    "read_manifest",
    "read_size",
    "summarize",
    "trained",
]

"""Image sets: find, digest, label, split and decode images, without features."""

from bottleneck.images.find import SPLITS, ImageItem, in_threads, read_file, read_manifest
from bottleneck.images.pixels import NearDuplicates, decode, find_near_duplicates, read_size
from bottleneck.images.sets import ImageSet
from bottleneck.records import RejectedImage

__all__ = [
    "SPLITS",
    "ImageItem",
    "ImageSet",
    "NearDuplicates",
    "RejectedImage",
    "decode",
    "find_near_duplicates",
    "in_threads",
    "read_file",
    "read_manifest",
    "read_size",
]

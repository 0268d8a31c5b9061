"""Image sets: find, digest, label, split and decode images, without features."""

from bottleneck.images.alike import NearDuplicates, find_near_duplicates
from bottleneck.images.digests import digests_of_file
from bottleneck.images.find import SPLITS, ImageItem, in_threads, read_file, read_manifest
from bottleneck.images.pixels import MAX_PIXELS, Decoded, decode, decode_whole, read_size
from bottleneck.images.sets import ImageSet
from bottleneck.records import RejectedImage

__all__ = [
    "MAX_PIXELS",
    "SPLITS",
    "Decoded",
    "ImageItem",
    "ImageSet",
    "NearDuplicates",
    "RejectedImage",
    "decode",
    "decode_whole",
    "digests_of_file",
    "find_near_duplicates",
    "in_threads",
    "read_file",
    "read_manifest",
    "read_size",
]

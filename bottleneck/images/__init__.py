"""Image sets: find, digest, label, split and decode images. They hold no features."""

from bottleneck.images.decode import decode
from bottleneck.images.find import IMAGE_SUFFIXES, SPLITS
from bottleneck.images.sets import ImageItem, ImageSet, RejectedImage

__all__ = ["IMAGE_SUFFIXES", "SPLITS", "ImageItem", "ImageSet", "RejectedImage", "decode"]

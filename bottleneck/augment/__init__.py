"""Augmentation policies: views of an image that depend on its digest and their number alone."""

from bottleneck.augment.files import find_policy
from bottleneck.augment.policies import POLICIES, Policy
from bottleneck.augment.warps import EdgeAffine, EdgeElastic

__all__ = ["POLICIES", "EdgeAffine", "EdgeElastic", "Policy", "find_policy"]

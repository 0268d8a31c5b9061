"""Augmentation policies: views of an image that depend on its digest and their number alone."""

from bottleneck.augment.policies import POLICIES, Policy, find_policy

__all__ = ["POLICIES", "Policy", "find_policy"]

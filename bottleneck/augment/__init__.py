"""Augmentation policies: views of an image that depend only on its digest and their number."""

from bottleneck.augment.policies import POLICIES, Policy, find_policy

__all__ = ["POLICIES", "Policy", "find_policy"]

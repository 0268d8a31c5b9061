"""Head recipes and the fitted head. No h5py in it.

A fitted head is affine: its standardisation is folded into its weights. It is saved as safetensors
and JSON.
"""

from bottleneck.heads.calibration import calibration_error
from bottleneck.heads.fit import fit_head
from bottleneck.heads.head import Head, find_head, head_names
from bottleneck.heads.recipes import C_GRID, RECIPES

__all__ = [
    "C_GRID",
    "RECIPES",
    "Head",
    "calibration_error",
    "find_head",
    "fit_head",
    "head_names",
]

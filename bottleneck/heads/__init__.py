"""Classifier recipes and the fitted head; does not import h5py.

`HeadClassifier`, which needs scikit-learn, is in `bottleneck.heads.estimator`.

A fitted head takes raw features: standardisation is folded into its weights. It is saved as
safetensors and JSON.
"""

from bottleneck.heads.crossing import HeldOut, cross_validate, held_out_probabilities
from bottleneck.heads.files import check_head_folder, head_names
from bottleneck.heads.fit import fit_head, fit_rows
from bottleneck.heads.head import Head, find_head
from bottleneck.heads.recipes import C_GRID, MLP, RECIPES
from bottleneck.heads.scoring import calibration_error

__all__ = [
    "C_GRID",
    "MLP",
    "RECIPES",
    "Head",
    "HeldOut",
    "calibration_error",
    "check_head_folder",
    "cross_validate",
    "find_head",
    "fit_head",
    "fit_rows",
    "head_names",
    "held_out_probabilities",
]

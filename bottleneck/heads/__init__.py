"""Head recipes and the fitted head. No h5py in it.

scikit-learn fits. A fitted head is affine: its standardisation is folded into its weights. It is
saved as safetensors and JSON.
"""

from bottleneck.heads.fit import C_GRID, RECIPES, fit_head
from bottleneck.heads.head import Head, find_head, head_names

__all__ = ["C_GRID", "RECIPES", "Head", "find_head", "fit_head", "head_names"]

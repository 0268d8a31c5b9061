"""Fine-tuning: train the top of a base, or all of it, starting from a fitted head.

The input is images, or cached activations of the layer below the trained ones; the result is a
folder with a new head and a new model.
"""

from bottleneck.finetune.result import fill_split
from bottleneck.finetune.run import Finetuned, finetune_head
from bottleneck.finetune.start import default_images, is_first_process

__all__ = ["Finetuned", "default_images", "fill_split", "finetune_head", "is_first_process"]

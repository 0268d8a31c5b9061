"""Fine-tuning: train the top of a base, or all of it, from a fitted head on.

From images or from cached activations of the layer below what is trained; the result is a folder
with a head and a model of its own.
"""

from bottleneck.finetune.run import Finetuned, finetune_head
from bottleneck.finetune.start import default_images, fill_split, is_first_process

__all__ = ["Finetuned", "default_images", "fill_split", "finetune_head", "is_first_process"]

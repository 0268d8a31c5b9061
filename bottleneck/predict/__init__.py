"""Predict the classes of images, with a head and cached features or its base.

`Predictor` imports PyTorch, and is imported from `bottleneck.predict.predictor`.
"""

from bottleneck.predict.images import predict_images
from bottleneck.records import Prediction

__all__ = ["Prediction", "predict_images"]

"""A network of some 1,400 weights, as another package would bring it; see `little` in conftest."""

from collections import OrderedDict

from torch import nn

from bottleneck.bases import Model, Transform


def network(_) -> nn.Module:
    layers = OrderedDict(
        first=nn.Conv2d(3, 8, 3, stride=2),
        first_relu=nn.ReLU(),
        second=nn.Conv2d(8, 16, 3, stride=2),
        second_relu=nn.ReLU(),
        pool=nn.AdaptiveAvgPool2d(1),
        flat=nn.Flatten(),
        last=nn.Linear(16, 5),
    )
    return nn.Sequential(layers)


def model() -> Model:
    transform = Transform((36, 36), (32, 32), "bilinear", (0.5,) * 3, (0.25,) * 3)
    return Model("little", "little:little", network, transform)

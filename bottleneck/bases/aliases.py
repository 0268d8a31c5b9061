"""Aliases: the layer names of Keras, which the literature uses.

An alias means a layer, or a module and thus its last layer. If Keras has one layer for an operation
and its activation, the alias is the output of the activation. Keras' ``predictions`` are
probabilities, which these networks do not compute: that name is left out.
"""

from collections.abc import Iterator
from typing import Any

from torch import nn

__all__ = ["keras_aliases"]

_Pairs = Iterator[tuple[str, str]]


def keras_aliases(model: nn.Module) -> dict[str, str]:
    """Return a mapping of alias to layer or module; some may not be in the model's graph.

    The names are those of `keras.applications`.

    Parameters
    ----------
    model : torch.nn.Module
        The network.

    Returns
    -------
    dict of str to str
        Empty if the family of the network has no aliases.
    """
    for kind in type(model).__mro__:
        if pairs := _FAMILIES.get(f"{kind.__module__}.{kind.__name__}"):
            return dict(pairs(model))
    return {}


def _vgg(model: Any) -> _Pairs:
    """Name ``block1_conv1``, ``block1_pool``, ..., ``fc1``; a convolution includes its ReLU."""
    block, convolution = 1, 0
    for index, module in model.features.named_children():
        if isinstance(module, nn.ReLU):
            convolution += 1
            yield f"block{block}_conv{convolution}", f"features.{index}"
        elif isinstance(module, nn.MaxPool2d):
            yield f"block{block}_pool", f"features.{index}"
            block, convolution = block + 1, 0
    if hasattr(model, "classifier"):
        yield from {"fc1": "classifier.1", "fc2": "classifier.4"}.items()


def _resnet(model: Any) -> _Pairs:
    """Name ``conv1_relu``, ``conv2_block1_out``, ...; stages are counted from 2."""
    yield from {"conv1_conv": "conv1", "conv1_bn": "bn1", "conv1_relu": "relu"}.items()
    yield "pool1_pool", "maxpool"
    for stage in range(1, 5):
        for index, block in enumerate(getattr(model, f"layer{stage}")):
            theirs, ours = f"conv{stage + 1}_block{index + 1}", f"layer{stage}.{index}"
            parts = {"0_conv": "downsample.0", "0_bn": "downsample.1", "add": "add"}
            last = 3 if hasattr(block, "conv3") else 2
            for number in range(1, last + 1):
                parts |= {f"{number}_conv": f"conv{number}", f"{number}_bn": f"bn{number}"}
                # One ReLU module serves the whole block; its calls are counted.
                relu = f"relu_{number - 1}".removesuffix("_0")
                parts[f"{number}_relu" if number < last else "out"] = relu
            for part, layer in parts.items():
                yield f"{theirs}_{part}", f"{ours}.{layer}"
    yield "avg_pool", "flatten"


def _resnet_v2(model: Any) -> _Pairs:
    """Name ``conv2_block1_out``, ..., ``post_relu``, where the two libraries' networks agree.

    Keras halves the resolution in the last block of a stage, this one in the first of the next.
    """
    stages = [len(stage.blocks) for stage in model.stages]
    for stage, count in enumerate(stages):
        for index in range(count if stage == len(stages) - 1 else count - 1):
            yield f"conv{stage + 2}_block{index + 1}_out", f"stages.{stage}.blocks.{index}.add"
    yield from {"post_relu": "norm", "avg_pool": "head.global_pool.pool"}.items()


def _inception_v3(_: Any) -> _Pairs:
    """Name ``mixed0``, ..., ``mixed10``: the concatenations at the blocks' ends."""
    blocks = ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c")
    for number, block in enumerate(blocks):
        yield f"mixed{number}", f"Mixed_{block}"
    yield "avg_pool", "flatten"


def _densenet(model: Any) -> _Pairs:
    """Name ``conv2_block1_concat``, ...: the input of a dense layer joined with its output."""
    yield from {"conv1_conv": "features.conv0", "conv1_bn": "features.norm0"}.items()
    yield from {"conv1_relu": "features.relu0", "pool1": "features.pool0"}.items()
    blocks = [each for name, each in model.features.named_children() if "denseblock" in name]
    for stage, count in enumerate(map(len, blocks), start=1):
        block = f"features.denseblock{stage}"
        for index in range(1, count + 1):
            theirs, ours = f"conv{stage + 1}_block{index}", f"{block}.denselayer{index}"
            parts = {"0_bn": "norm1", "0_relu": "relu1", "1_conv": "conv1"}
            parts |= {"1_bn": "norm2", "1_relu": "relu2", "2_conv": "conv2"}
            yield from ((f"{theirs}_{part}", f"{ours}.{name}") for part, name in parts.items())
            # The next dense layer concatenates what this one passes on; the block does it last.
            after = f".denselayer{index + 1}" if index < count else ""
            yield f"{theirs}_concat", f"{block}{after}.cat"
        for part, name in {"bn": "norm", "relu": "relu", "conv": "conv", "pool": "pool"}.items():
            yield f"pool{stage + 1}_{part}", f"features.transition{stage}.{name}"
    yield from {"bn": "features.norm5", "relu": "relu", "avg_pool": "flatten"}.items()


def _mobilenet_v2(model: Any) -> _Pairs:
    """Name ``Conv1``, ``expanded_conv_project``, ``block_1_expand``, ..., ``out_relu``."""
    last = len(model.features) - 1
    ends = (("Conv1", "bn_Conv1", "Conv1_relu"), 0), (("Conv_1", "Conv_1_bn", "out_relu"), last)
    for names, place in ends:
        for part, name in enumerate(names):
            yield name, f"features.{place}.{part}"
    for number in range(1, last):
        block = "expanded_conv" if number == 1 else f"block_{number - 1}"
        steps = ["depthwise"] if number == 1 else ["expand", "depthwise"]
        for place, step in enumerate(steps):
            for part, suffix in enumerate(("", "_BN", "_relu")):
                yield f"{block}_{step}{suffix}", f"features.{number}.conv.{place}.{part}"
        yield f"{block}_project", f"features.{number}.conv.{len(steps)}"
        yield f"{block}_project_BN", f"features.{number}.conv.{len(steps) + 1}"
        yield f"{block}_add", f"features.{number}.add"


def _xception(model: Any) -> _Pairs:
    """Name ``block1_conv1``, ``block2_sepconv1``, ..., ``block14_sepconv2_act``.

    The block that Keras counts as the second is the first one here.
    """
    blocks = [name for name, _ in model.named_children() if name.startswith("block")]
    for place, name in enumerate(blocks):
        block, number, before = f"block{place + 2}", 0, ""
        for index, step in getattr(model, name).rep.named_children():
            layer = f"{name}.rep.{index}"
            if isinstance(step, nn.MaxPool2d):
                yield f"{block}_pool", layer
            elif isinstance(step, nn.BatchNorm2d):
                yield f"{block}_sepconv{number}_bn", layer
            elif not isinstance(step, nn.ReLU):
                number += 1
                yield f"{block}_sepconv{number}", layer
                if before:
                    yield f"{block}_sepconv{number}_act", before
            before = layer
    last = f"block{len(blocks) + 2}_sepconv"
    outer = ("block1_conv1", "block1_conv2", f"{last}1", f"{last}2")
    for number, theirs in enumerate(outer, start=1):
        yield theirs, f"conv{number}"
        yield f"{theirs}_bn", f"bn{number}"
        yield f"{theirs}_act", f"act{number}"
    yield "avg_pool", "global_pool.flatten"


_FAMILIES = {
    "torchvision.models.vgg.VGG": _vgg,
    "timm.models.vgg.VGG": _vgg,
    "torchvision.models.resnet.ResNet": _resnet,
    "timm.models.resnetv2.ResNetV2": _resnet_v2,
    "torchvision.models.inception.Inception3": _inception_v3,
    "torchvision.models.densenet.DenseNet": _densenet,
    "torchvision.models.mobilenetv2.MobileNetV2": _mobilenet_v2,
    "timm.models.xception.Xception": _xception,
}
"""The function that names the layers of each class of network."""

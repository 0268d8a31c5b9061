"""Export a head with its base to one file, for ONNX Runtime, PyTorch or another machine.

`unpack_head` is in `bottleneck.export.archive`, as it imports torch.
"""

from bottleneck.export.run import Exported, export_head

__all__ = ["Exported", "export_head"]

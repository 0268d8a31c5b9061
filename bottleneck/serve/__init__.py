"""Serve heads over HTTP: dynamic batches, limits, metrics, and a page to drop an image on.

It needs Starlette and uvicorn, which the extra ``serve`` installs. Exported files are served
without PyTorch: ``serve-onnx`` lists all that this needs.
"""

from bottleneck.serve.run import bind, serve_files, serve_heads

__all__ = ["bind", "serve_files", "serve_heads"]

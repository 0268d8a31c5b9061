"""Serve heads over HTTP: dynamic batches, limits, metrics, and a page to drop an image on.

It needs Starlette and uvicorn, which the extra ``serve`` installs.
"""

from bottleneck.serve.run import bind, serve_heads

__all__ = ["bind", "serve_heads"]

"""Run a frozen pretrained network over images once, keep its activations, train heads in seconds."""

__version__ = "2026.11.0"

"""Train a CNN from scratch or fine-tune a pre-trained one, and how deep, on medical images."""

__version__ = "0.1.0"

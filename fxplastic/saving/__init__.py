"""Checkpoints without pickle: weights as safetensors, everything else as JSON.

Nothing that a file holds is executed: a model is built by its name in timm or torchvision, or by
the caller, and brought to its present widths by its history of plans.
"""

from fxplastic.saving.load import Loaded, load
from fxplastic.saving.save import save

__all__ = ["Loaded", "load", "save"]

"""What scoring adds to a training step at 224 pixels, and whether a step waits for the device."""

from __future__ import annotations

import argparse
from typing import Any

from tools.overhead import measure as overhead

MODELS = ("resnet50", "convnext_tiny", "vit_base_patch16_224")
BATCH, PAIRS = 8, 6


def measure(name: str, device: str = "cpu") -> dict[str, Any]:
    """Parts of a step: by pairs of steps with and without, by the call itself, and a turnover."""
    options = argparse.Namespace(
        model=name, batch=BATCH, size=224, device=device, criterion="magnitude",
        pairs=PAIRS, turnovers=2,
    )  # fmt: skip
    found = overhead(options)
    return {
        "step_s": round(found["step"], 2),
        "pairs": round(found["pairs"], 4),
        "pairs_half": round(found["half"], 4),
        "call": round(found["call"], 4),
        "turnover_steps": round(found["turnover"], 2),
    }

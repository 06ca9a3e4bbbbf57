"""Discovery from small networks to the largest, and from small images to large ones."""

from __future__ import annotations

from typing import Any

from tools.bench.timing import apart

SIZES = (
    ("resnet18", 224),
    ("resnet50", 224),
    ("resnet152", 224),
    ("resnet50", 512),
    ("resnet50", 1024),
    ("convnext_tiny", 224),
    ("convnext_tiny", 1024),
    ("vit_base_patch16_224", 224),
    ("vit_base_patch16_224", 1024),
    ("meta:vit_large_patch14_dinov2", 518),
    ("meta:vit_giant_patch14_dinov2", 518),
    ("meta:vit_7b_patch16_dinov3", 256),
)


def measure(name: str, size: int) -> dict[str, Any]:
    """Seconds, nodes of both graphs, milliseconds a node and the process's peak, in MB."""
    runs = [apart("tools.bench.discovery", "ours", name, str(size)) for _ in range(2)]
    best = min(runs, key=lambda run: float(run["seconds"]))
    return {
        "seconds": round(best["seconds"], 2),
        "nodes": best["nodes"],
        "ms_a_node": round(1e3 * best["seconds"] / best["nodes"], 3),
        "extra_mb": best["peak_mb"],
        "process_mb": best["rss_mb"],
    }

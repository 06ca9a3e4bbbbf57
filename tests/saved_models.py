"""Models that are turned over, saved and loaded in another process, which says what they give.

``python -m tests.saved_models FOLDER...`` is that process: it imports nothing that made them.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import timm.optim
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import fxplastic
from fxplastic.models import build_model, find_model
from tests.randomise import randomise

STEPS = 3
CLASSES = 5

# name: arguments, size of the images, optimizer
MODELS: dict[str, tuple[dict, int, Callable[..., torch.optim.Optimizer]]] = {
    "timm/test_resnet": ({}, 32, lambda g: torch.optim.SGD(g, lr=0.01, momentum=0.9)),
    "timm/test_vit": ({"img_size": 32}, 32, torch.optim.AdamW),
    "timm/test_convnext": ({}, 32, torch.optim.AdamW),
    "timm/mambaout_femto": ({}, 64, lambda g: timm.optim.Lion(g, lr=1e-4)),
    "timm/regnety_002": ({}, 64, torch.optim.AdamW),
    "timm/densenet121": ({}, 64, torch.optim.AdamW),
    "timm/efficientnet_lite0": ({}, 64, torch.optim.RMSprop),
    "timm/swin_tiny_patch4_window7_224": ({"img_size": 56}, 56, torch.optim.AdamW),
    "timm/mixer_s32_224": ({"img_size": 64}, 64, torch.optim.Adam),
    "torchvision/shufflenet_v2_x0_5": ({}, 64, torch.optim.AdamW),
}


def make(name: str, folder: Path, seed: int = 0) -> dict[str, object]:
    """Turn a model over, grow it, prune it (training in between), save it and what it gives."""
    arguments, side, optimizer_of = MODELS[name]
    arguments = {"num_classes": CLASSES, **arguments}
    torch.manual_seed(seed)
    model = build_model(find_model(name), arguments)
    randomise(model, seed).float()
    images, labels = torch.randn(4, 3, side, side), torch.arange(4) % CLASSES
    plastic = fxplastic.plasticize(model, images)
    optimizer = optimizer_of(plastic.parameters())
    fitted(plastic, optimizer, images, labels, 2)
    before = sum(p.numel() for p in plastic.parameters())
    plan = fxplastic.Plan.random(plastic, turnover=0.3, seed=seed)
    fxplastic.rewrite_(plastic, plan, optimizer)
    for width in (1.25, 0.75):
        fitted(plastic, optimizer, images, labels, 1)
        result = fxplastic.rewrite(
            plastic, fxplastic.plan_widths(plastic, width, seed=seed), optimizer
        )
        plastic, optimizer = result.module, result.optimizer
    fitted(plastic, optimizer, images, labels, 1)
    fxplastic.save(folder, plastic, optimizer=optimizer, model=name, arguments=arguments)
    save_file({"images": images, "labels": labels}, folder.with_suffix(".inputs"))
    save_file(gives(plastic, optimizer, images, labels), folder.with_suffix(".here"))
    after = sum(p.numel() for p in plastic.parameters())
    return {"parameters": (before, after), "optimizer": type(optimizer).__name__}


def fitted(
    plastic: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor, steps: int
) -> None:
    """Train a few steps, the same for the same weights."""
    plastic.train()
    for step in range(steps):
        torch.manual_seed(step)
        optimizer.zero_grad()
        cross_entropy(plastic(images), labels).backward()
        optimizer.step()


def gives(
    plastic: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor
) -> dict[str, Tensor]:
    """Outputs in both modes, and every tensor after further steps of the optimizer."""
    found = {}
    with torch.no_grad():
        found["eval"] = plastic.eval()(images).clone()
        torch.manual_seed(0)
        found["train"] = plastic.train()(images).clone()
    fitted(plastic, optimizer, images, labels, STEPS)
    state = {f"after/{k}": v.detach().clone() for k, v in plastic.state_dict().items()}
    return found | state


def differences(folder: Path) -> list[str]:
    """What the other process found to be otherwise than here, bit for bit."""
    here, there = (load_file(folder.with_suffix(s)) for s in (".here", ".there"))
    if here.keys() != there.keys():
        return sorted(here.keys() ^ there.keys())
    return [name for name in here if not torch.equal(here[name], there[name])]


def main(folders: list[str]) -> None:
    """Load each folder and write down what it gives."""
    torch.set_num_threads(1)
    for name in folders:
        inputs = load_file(Path(name).with_suffix(".inputs"))
        loaded = fxplastic.load(name)
        found = gives(loaded.plastic, loaded.optimizer, inputs["images"], inputs["labels"])
        save_file(found, Path(name).with_suffix(".there"))


if __name__ == "__main__":
    main(sys.argv[1:])

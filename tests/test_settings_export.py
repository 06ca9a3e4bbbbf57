"""Rewritten networks leave PyTorch: by `torch.export`, and by ONNX into onnxruntime.

Twelve families, each turned over and then made wider or narrower, with weights at which a mistake
shows. In float32, what onnxruntime computes is compared with the rewritten module to 1e-4, and to
1e-5 of its largest output, where two images differ by more than 1e-4 of it; a program of
`torch.export` runs the same kernels and is compared to 1e-6.
"""

from typing import Any

import numpy as np
import onnxruntime
import pytest
import timm
import torch
from torch import Tensor, nn

import fxplastic
from fxplastic import Plan
from tests.randomise import randomise

AREA = "Export"
NEAR, SEEN = 1e-5, 1e-4
shows = pytest.mark.setting
SMALL: dict[str, dict[str, Any]] = {
    "resnet18": {"channels": (8, 16, 24, 32), "layers": (1, 1, 1, 1)},
    "test_convnext": {},
    "test_vit": {"img_size": 64},
    "test_efficientnet": {},
    "test_byobnet": {},
    "test_nfnet": {},
    "mambaout_femto": {"depths": (1, 1, 1, 1), "dims": (16, 24, 32, 48)},
    "mixer_s32_224": {"img_size": 64},
    "swin_tiny_patch4_window7_224": {
        "img_size": 64, "window_size": 4, "depths": (1, 1), "embed_dim": 24, "num_heads": (2, 4),
    },
    "densenet121": {"growth_rate": 8, "block_config": (2, 2)},
    "poolformer_s12": {},
    "mobilenetv3_small_050": {},
}  # fmt: skip


def rewritten(name: str, factor: float) -> nn.Module:
    """A small model of a family, turned over, then of other widths."""
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=7, **SMALL[name])
    model = randomise(model, seed=1).float().eval()
    plastic = fxplastic.plasticize(model, torch.zeros(2, 3, 64, 64))
    assert plastic.groups
    fxplastic.rewrite_(plastic, Plan.random(plastic, turnover=0.3, seed=1))
    plan = fxplastic.plan_widths(plastic, factor)
    assert not plan.keeps_widths
    return fxplastic.rewrite(plastic, plan).module


def gap(one: Tensor, other: Tensor) -> float:
    """The largest difference, in units of the largest number."""
    return float((one - other).abs().max() / other.abs().max())


@shows(AREA, "torch.export of rewritten networks", "supported")
@shows(AREA, "ONNX (dynamo exporter) of rewritten networks, in onnxruntime", "supported")
@pytest.mark.parametrize("factor", [1.5, 0.6], ids=["wider", "narrower"])
@pytest.mark.parametrize("name", SMALL)
def test_a_rewritten_network_computes_the_same_when_exported(name: str, factor: float):
    module = rewritten(name, factor)
    x = torch.randn(2, 3, 64, 64) * torch.tensor([0.3, 3.0]).view(2, 1, 1, 1)
    with torch.no_grad():
        wanted = module(x)
        program = torch.export.export(module, (x,))
        assert gap(program.module()(x), wanted) < 1e-6
    made = torch.onnx.export(program, dynamo=True, verbose=False, optimize=True)
    session = onnxruntime.InferenceSession(
        made.model_proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (output,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    assert np.isfinite(output).all()
    found = torch.from_numpy(output)
    assert gap(wanted[:1], wanted[1:]) > SEEN  # it does depend on the images
    assert float((found - wanted).abs().max()) < 1e-4
    assert gap(found, wanted) < NEAR

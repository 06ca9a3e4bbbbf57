"""What a rewrite to other widths leaves behind: layer attributes, groups, copies, exports."""

import copy
import io
import pickle
from typing import Any

import onnxruntime
import pytest
import timm
import torch
import torch._dynamo
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

import fxplastic
from tests.adversarial import CASES
from tests.exact_widths import same_groups
from tests.oracle import TOLERANCE, distance, outputs, prepare


def built(name: str) -> tuple[nn.Module, tuple[Tensor, ...], fxplastic.PlasticModule]:
    case = next(case for case in CASES if case.name == name)
    model, inputs = prepare(case.model()), case.inputs()
    return model, inputs, fxplastic.plasticize(model, inputs)


def check_attributes(module: nn.Module) -> int:
    """Every layer's sizes fit its tensors; returns how many layers were looked at."""
    looked = 0
    for layer in module.modules():
        weight = getattr(layer, "weight", None)
        if isinstance(layer, _ConvNd):
            ours = (layer.in_channels, layer.out_channels)
            first, second = ours if layer.transposed else ours[::-1]
            assert weight.shape[:2] == (first, second // layer.groups)
        elif isinstance(layer, nn.Linear):
            assert weight.shape == (layer.out_features, layer.in_features)
        elif isinstance(layer, _NormBase):
            held = weight if weight is not None else layer.running_mean
            assert held is None or len(held) == layer.num_features
        elif isinstance(layer, nn.GroupNorm):
            assert weight is None or len(weight) == layer.num_channels
            assert layer.num_channels % layer.num_groups == 0
        elif isinstance(layer, nn.PReLU):
            assert len(weight) == layer.num_parameters
        else:
            continue
        looked += 1
    return looked


@pytest.mark.parametrize(
    "name", ["groups_of_literals", "norms_without_affine", "layers_with_sizes"]
)
@pytest.mark.parametrize("plan", [{"grow": 1.0}, {"prune": 0.5}])
def test_layers_know_their_new_sizes(name: str, plan: dict[str, float]) -> None:
    _, _, plastic = built(name)
    before = {n: dict(vars(m)) for n, m in plastic.named_modules() if n}
    module = fxplastic.rewrite(plastic, fxplastic.Plan.random(plastic, **plan)).module
    assert check_attributes(module) >= 2
    after = {n: dict(vars(m)) for n, m in plastic.named_modules() if n}
    assert before.keys() == after.keys()
    sizes = ("in_channels", "out_channels", "groups", "num_features", "num_groups", "in_features")
    for name_, held in before.items():
        assert [held.get(s) for s in sizes] == [after[name_].get(s) for s in sizes]


@pytest.fixture(scope="module")
def small_resnet() -> fxplastic.PlasticModule:
    model = timm.create_model("resnet18", num_classes=5)
    return fxplastic.plasticize(prepare(model), torch.zeros(2, 3, 32, 32))


def test_every_layer_of_a_resnet_knows_its_new_sizes(small_resnet: Any) -> None:
    plan = fxplastic.plan_widths(small_resnet, 0.5, multiple_of=8)
    assert check_attributes(fxplastic.rewrite(small_resnet, plan).module) > 30


@pytest.mark.parametrize("again", ["deepcopy", "pickle", "torch.save"])
def test_a_result_survives_copies(small_resnet: Any, again: str) -> None:
    plan = fxplastic.plan_widths(small_resnet, 1.25)
    module = fxplastic.rewrite(small_resnet, plan).module
    if again == "deepcopy":
        twin = copy.deepcopy(module)
    elif again == "pickle":
        twin = pickle.loads(pickle.dumps(module))
    else:
        file = io.BytesIO()
        torch.save(module, file)
        file.seek(0)
        twin = torch.load(file, weights_only=False)
    x = (torch.randn(3, 3, 32, 32, dtype=torch.float64),)
    assert distance(outputs(twin, x, "train"), outputs(module, x, "train")) == 0.0
    assert same_groups(twin, small_resnet, plan)
    smaller = fxplastic.plan_widths(twin, 0.5)
    assert fxplastic.rewrite(twin, smaller).module.fingerprint == smaller.target


def test_a_result_is_searched_again_with_the_same_groups(small_resnet: Any) -> None:
    plan = fxplastic.plan_widths(small_resnet, 1.25)
    module = fxplastic.rewrite(small_resnet, plan).module
    for inputs in (None, torch.zeros(3, 3, 48, 48), {"x": torch.zeros(4, 3, 32, 32)}):
        found = fxplastic.plasticize(module, inputs)
        assert same_groups(found, small_resnet, plan)
        assert found.frozen == module.frozen
    sources = {n.meta["source"] for n in found.graph.nodes}
    assert any("resnet.py:" in source for source in sources), "the user's own lines are kept"
    with pytest.raises(fxplastic.TraceError, match=r"\['y'\] by name\) don't fit the traced"):
        fxplastic.plasticize(module, {"y": torch.zeros(1, 3, 32, 32)})


def test_a_result_compiles_without_a_graph_break() -> None:
    _, inputs, plastic = built("einops_of_literals")
    module = fxplastic.rewrite(plastic, fxplastic.Plan.random(plastic, grow=0.5)).module
    torch._dynamo.reset()
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        assert distance([compiled(*inputs)], [module(*inputs)]) <= TOLERANCE
    torch._dynamo.reset()


def test_a_result_is_exported() -> None:
    _, inputs, plastic = built("flattened_blocks")
    module = fxplastic.rewrite(plastic, fxplastic.Plan.random(plastic, grow=0.5)).module
    exported = torch.export.export(module, inputs)
    with torch.no_grad():
        assert distance([exported.module()(*inputs)], [module(*inputs)]) <= TOLERANCE


def test_a_result_runs_in_onnx_runtime(small_resnet: Any) -> None:
    plan = fxplastic.plan_widths(small_resnet, 0.5, multiple_of=8)
    module = fxplastic.rewrite(small_resnet, plan).module.float().eval()
    x = torch.randn(2, 3, 32, 32)
    program = torch.onnx.export(module, (x,), dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    with torch.no_grad():
        assert distance([torch.from_numpy(found)], [module(x)]) <= 1e-4

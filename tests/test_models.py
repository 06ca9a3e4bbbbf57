"""Models are found by name in the libraries' registries, and built with random weights."""

import pytest
import torch
from torch import nn

from fxplastic.errors import ModelError
from fxplastic.models import (
    ModelSource,
    build_library_model,
    build_model,
    find_library_model,
    find_model,
)


def small(width: int = 3) -> nn.Module:
    return nn.Linear(width, 2)


NUMBER = 3


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("resnet18", "timm/resnet18"),
        ("timm/resnet18.a1_in1k", "timm/resnet18.a1_in1k"),
        ("torchvision/resnet18", "torchvision/resnet18"),
        ("fcn_resnet50", "torchvision/fcn_resnet50"),
        ("package.module:function", "package.module:function"),
    ],
)
def test_a_name_is_found_in_timm_first_and_then_in_torchvision(name: str, key: str):
    assert find_model(name).key == key


@pytest.mark.parametrize("name", ["resnet81", "timm/resnet81", "torchvision/resnet81"])
def test_an_unknown_name_brings_near_ones(name: str):
    library = name.rpartition("/")[0] or "timm"
    with pytest.raises(ModelError, match=rf"no model '{name}'.*{library}/resnet\d"):
        find_model(name)


@pytest.mark.parametrize("name", ["", "hf-hub:timm/resnet18", "local-dir:/tmp", "a b:c", "zzzz"])
def test_what_is_no_name_is_refused(name: str):
    with pytest.raises(ModelError, match="model"):
        find_model(name)
    assert find_library_model(name) is None


def test_a_saved_folder_is_told_by_its_manifest(tmp_path):
    (tmp_path / "fxplastic.json").write_text("{}")
    assert find_model(str(tmp_path)).kind == "saved"
    with pytest.raises(ModelError, match="fxplastic.load"):
        build_model(find_model(str(tmp_path)))


@pytest.mark.parametrize("name", ["timm/test_resnet", "torchvision/shufflenet_v2_x0_5"])
def test_a_model_is_built_on_the_device_that_is_asked_for(name: str):
    model = build_model(find_model(name), {"num_classes": 7}, device="meta")
    assert {p.device.type for p in model.parameters()} == {"meta"}
    assert [*model.parameters()][-1].shape[0] == 7


def test_a_function_is_called_with_the_arguments():
    model = build_model(find_model("tests.test_models:small"), {"width": 5})
    assert isinstance(model, nn.Linear)
    assert model.in_features == 5
    assert model.weight.device == torch.device("cpu")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tests.no_such_module:small", "cannot be imported"),
        ("tests.test_models:big", "has no 'big'"),
        ("tests.test_models:NUMBER", "cannot be called"),
        ("builtins:dict", "returned a dict"),
    ],
)
def test_a_function_that_cannot_serve_is_named(name: str, message: str):
    with pytest.raises(ModelError, match=message):
        build_model(find_model(name))


def test_a_function_is_out_of_reach_of_the_builder_for_names_from_files():
    with pytest.raises(ModelError, match="no model of timm or torchvision"):
        build_library_model(ModelSource("builtins:dict", "function"))


@pytest.mark.parametrize(
    "arguments",
    [
        {"pretrained": True},
        {"checkpoint_path": "weights.pth"},
        {"weights": "DEFAULT"},
        {"weights_backbone": "DEFAULT"},
        {"model_name": "resnet18"},
    ],
)
@pytest.mark.parametrize("name", ["timm/test_resnet", "torchvision/resnet18"])
def test_arguments_that_would_read_weights_are_refused(name: str, arguments: dict[str, object]):
    with pytest.raises(ModelError, match=next(iter(arguments))):
        build_model(find_model(name), arguments)


def test_arguments_that_do_not_fit_are_named():
    with pytest.raises(ModelError, match="no_such_argument"):
        build_model(find_model("timm/test_resnet"), {"no_such_argument": 1}, device="meta")
    with pytest.raises(ModelError, match="no JSON value"):
        build_model(find_model("timm/test_resnet"), {"act_layer": nn.ReLU}, device="meta")

"""Saved and loaded again, in another process too, a module is the same bit for bit."""

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import timm.optim
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import fxplastic
from fxplastic import Plan, history, load, plasticize, rewrite, rewrite_, save
from fxplastic.api import without_groups
from tests import saved_models

ROOT = Path(__file__).resolve().parent.parent
FEW = ["timm/test_resnet", "timm/test_vit", "timm/test_convnext"]


class Net(nn.Module):
    """Tied weights, a buffer that is not stored, and a tensor in a plain attribute."""

    def __init__(self, hidden: int = 8) -> None:
        super().__init__()
        self.grow = nn.Sequential(nn.Linear(4, hidden), nn.ReLU(), nn.Linear(hidden, 4))
        self.first = nn.Linear(4, hidden)
        self.second = nn.Linear(hidden, 4)
        self.third = nn.Linear(4, hidden)
        self.third.weight = self.first.weight
        self.scale = nn.Buffer(torch.rand(4), persistent=False)
        self.plain = torch.arange(4.0)

    def forward(self, x: Tensor) -> Tensor:
        x = self.grow(x)
        x = self.second(self.first(x).relu()) * self.scale + self.plain
        return self.third(x).sum(1)


def small(seed: int = 0) -> fxplastic.PlasticModule:
    torch.manual_seed(seed)
    return plasticize(Net(), torch.zeros(2, 4))


def same(one: nn.Module, other: nn.Module) -> bool:
    left, right = one.state_dict(), other.state_dict()
    return left.keys() == right.keys() and all(
        torch.equal(left[k], right[k]) and left[k].dtype == right[k].dtype for k in left
    )


def test_another_process_gives_the_same_bit_for_bit_after_three_plans(tmp_path: Path):
    folders = [tmp_path / name.split("/")[1] for name in FEW]
    for name, folder in zip(FEW, folders, strict=True):
        saved_models.make(name, folder)
        plans = (folder / "plans.jsonl").read_text(encoding="utf-8").splitlines()
        assert [Plan.from_json(text).keeps_widths for text in plans] == [True, False, False]
    subprocess.run(
        [sys.executable, "-m", "tests.saved_models", *map(str, folders)], cwd=ROOT, check=True
    )
    for folder in folders:
        assert saved_models.differences(folder) == []


def test_the_stock_model_loads_the_weights_where_no_width_was_changed(tmp_path: Path):
    model = timm.create_model("test_resnet", num_classes=3)
    plastic = plasticize(model, torch.zeros(2, 3, 32, 32))
    rewrite_(plastic, Plan.random(plastic, turnover=0.3))
    save(tmp_path / "net", plastic, model="test_resnet", arguments={"num_classes": 3})
    stock = timm.create_model("test_resnet", num_classes=3)
    stock.load_state_dict(load_file(tmp_path / "net" / "model.safetensors"))
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(stock.eval()(images), plastic.eval()(images))


def test_ties_constants_flags_and_dtypes_come_back(tmp_path: Path):
    plastic = small().double()
    plastic.first.eval()
    plastic.second.bias.requires_grad_(False)
    save(tmp_path / "net", plastic)
    found = load(tmp_path / "net", Net).plastic
    assert same(found, plastic)
    assert found.third.weight is found.first.weight
    assert [m.training for m in found.modules()] == [m.training for m in plastic.modules()]
    assert [p.requires_grad for p in found.parameters()] == [
        p.requires_grad for p in plastic.parameters()
    ]
    assert torch.equal(found.scale, plastic.scale)
    x = torch.randn(2, 4, dtype=torch.float64)
    assert torch.equal(found.eval()(x), plastic.eval()(x))


def test_rows_of_channels_last_come_back(tmp_path: Path):
    plastic = plasticize(
        nn.Sequential(nn.Conv2d(3, 6, 3), nn.Conv2d(6, 2, 3)), torch.zeros(2, 3, 8, 8)
    )
    plastic.to(memory_format=torch.channels_last)
    save(tmp_path / "net", plastic)
    make = lambda: nn.Sequential(nn.Conv2d(3, 6, 3), nn.Conv2d(6, 2, 3))  # noqa: E731
    found = load(tmp_path / "net", make).plastic
    weight = found.get_submodule("0").weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert not weight.is_contiguous()


def test_history_is_kept_by_rewrites_copies_and_files(tmp_path: Path):
    plastic = small()
    assert history(plastic) == ()
    turnover = Plan.random(plastic, turnover=0.5)
    rewrite_(plastic, turnover)
    wide = rewrite(plastic, Plan.random(plastic, grow=0.5)).module
    assert [p.keeps_widths for p in history(wide)] == [True, False]
    assert history(plastic) == history(copy.deepcopy(plastic)) == (turnover,)
    save(tmp_path / "net", wide, extra={"epoch": 3, "rates": [0.1, 0.2]})
    found = load(tmp_path / "net", Net())
    assert history(found.plastic) == found.history == history(wide)
    assert found.extra == {"epoch": 3, "rates": [0.1, 0.2]}
    assert same(found.plastic, wide)
    again = rewrite(found.plastic, Plan.random(found.plastic, prune=0.5)).module
    save(tmp_path / "again", again)
    assert same(load(tmp_path / "again", Net).plastic, again)


def test_groups_that_were_refuted_stay_frozen(tmp_path: Path):
    plastic = without_groups(small(), {"grow.0.weight:0": "it was refuted"})
    assert plastic.groups.keys() < small().groups.keys()
    save(tmp_path / "net", plastic)
    found = load(tmp_path / "net", Net).plastic
    assert found.groups.keys() == plastic.groups.keys()
    assert "frozen when the model was saved" in found.frozen[-1].reason


def test_a_refused_plan_leaves_no_trace_in_the_history():
    plastic = small()
    with pytest.raises(fxplastic.RewriteError):
        rewrite_(plastic, Plan.random(plastic, grow=0.5))
    assert history(plastic) == ()


def test_the_model_that_is_given_is_left_as_it_was(tmp_path: Path):
    plastic, fresh = small().double(), Net()
    save(tmp_path / "net", plastic)
    before = copy.deepcopy(fresh.state_dict())
    load(tmp_path / "net", fresh)
    assert all(torch.equal(v, before[k]) for k, v in fresh.state_dict().items())
    assert fresh.first.weight.dtype == torch.float32


@pytest.mark.parametrize(
    "make",
    [
        lambda g: torch.optim.SGD(g, lr=0.01, momentum=0.9, nesterov=True),
        lambda g: torch.optim.Adam(g, lr=torch.tensor(0.01), capturable=False),
        lambda g: torch.optim.NAdam(g),
        lambda g: torch.optim.Adafactor(g),
        lambda g: timm.optim.Lion(g, lr=1e-3),
    ],
)
def test_an_optimizer_goes_on_as_if_nothing_had_happened(make, tmp_path: Path):
    plastic = small()
    first, *rest = plastic.parameters()
    optimizer = make([{"params": [first], "weight_decay": 0.1}, {"params": rest, "lr": 0.005}])
    step(plastic, optimizer)
    save(tmp_path / "net", plastic, optimizer=optimizer)
    found = load(tmp_path / "net", Net)
    assert type(found.optimizer) is type(optimizer)
    assert str(found.optimizer) == str(optimizer)
    assert found.optimizer.defaults == optimizer.defaults
    for _ in range(3):
        step(plastic, optimizer)
        step(found.plastic, found.optimizer)
    assert same(found.plastic, plastic)
    assert all(bool(p.isfinite().all()) for p in plastic.parameters())
    by_hand = load(tmp_path / "net", Net, make)
    assert str(by_hand.optimizer) == str(optimizer)
    assert load(tmp_path / "net", Net, optimizer=False).optimizer is None


def step(plastic: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    generator = torch.Generator().manual_seed(0)
    plastic(torch.randn(8, 4, generator=generator)).square().mean().backward()
    optimizer.step()


def test_keys_of_a_newer_minor_version_are_passed_over(tmp_path: Path):
    save(tmp_path / "net", small())
    edit(tmp_path / "net", version="1.7", novelty=[1])
    assert load(tmp_path / "net", Net).extra == {}


def edit(folder: Path, **changes: object) -> None:
    """Change a manifest as one who knows how its digest is made."""
    from fxplastic.saving.files import _digest, _sha256

    path = folder / "fxplastic.json"
    manifest = json.loads(path.read_text(encoding="utf-8")) | changes
    manifest["files"] = {name: _sha256(folder / name) for name in manifest["files"]}
    manifest["digest"] = _digest(manifest)
    path.write_text(json.dumps(manifest), encoding="utf-8")


# ---------------------------------------------------------------- what is refused
def cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-8])


def flip(folder: Path) -> None:
    path = folder / "plans.jsonl"
    data = bytearray(path.read_bytes() or b"\n")
    data[-1] ^= 1
    path.write_bytes(bytes(data))


def flip_manifest(folder: Path) -> None:
    path = folder / "fxplastic.json"
    path.write_text(
        path.read_text(encoding="utf-8").replace('"approximate": false', '"approximate": true')
    )


class Trap:
    """Unpickled, it leaves a file behind."""

    def __reduce__(self):
        return (Path.touch, (Path("sprung"),))


def pickled(folder: Path) -> None:
    torch.save({"first.weight": Trap()}, folder / "model.safetensors")
    edit(folder)


def named_command(folder: Path) -> None:
    edit(folder, model={"name": "os:getpid", "arguments": {"dict": {}}})


DAMAGE = [
    (cut, r"model\.safetensors is damaged \(cut off"),
    (flip, r"plans\.jsonl is damaged"),
    (flip_manifest, r"fxplastic\.json is damaged: its SHA-256"),
    (lambda f: (f / "model.safetensors").unlink(), r"model\.safetensors is missing"),
    (lambda f: (f / "fxplastic.json").unlink(), r"fxplastic\.json cannot be read"),
    (lambda f: (f / "fxplastic.json").write_text("{"), r"fxplastic\.json is damaged"),
    (lambda f: (f / "fxplastic.json").write_text("{}"), r"no manifest of fxplastic\.save"),
    (lambda f: edit(f, version="2.0"), r"version 2\.0, and this fxplastic reads 1\.x; upgrade"),
    (lambda f: edit(f, version=3), r"its version is 3"),
    (pickled, r"no safetensors file .*a pickle"),
]


@pytest.mark.parametrize(("damage", "text"), DAMAGE)
def test_a_damaged_folder_is_refused(
    damage, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    plastic = small()
    rewrite_(plastic, Plan.random(plastic, turnover=0.5))
    save(tmp_path / "net", plastic)
    damage(tmp_path / "net")
    with pytest.raises(fxplastic.SaveError, match=text):
        load(tmp_path / "net", Net)
    assert not Path("sprung").exists()


def test_a_name_in_the_file_is_no_code(tmp_path: Path):
    save(tmp_path / "net", small())
    with pytest.raises(fxplastic.SaveError, match=r"pass the fresh model"):
        load(tmp_path / "net")
    named_command(tmp_path / "net")
    with pytest.raises(fxplastic.SaveError, match=r"under the name 'os:getpid'"):
        load(tmp_path / "net")


@pytest.mark.parametrize("other", [lambda: Net(9), lambda: nn.Linear(4, 2)])
def test_the_file_of_another_model_is_refused(other, tmp_path: Path):
    save(tmp_path / "net", small())
    with pytest.raises(fxplastic.SaveError, match=r"of another model"):
        load(tmp_path / "net", other)


def test_an_optimizer_of_other_parameters_or_an_unknown_class_is_refused(tmp_path: Path):
    plastic, loose = small(), nn.Parameter(torch.zeros(2))
    mixed = torch.optim.SGD([*plastic.parameters(), loose])
    unknown = type("Mine", (torch.optim.Optimizer,), {})(plastic.parameters(), {})
    for optimizer, text in ((mixed, "1 parameters that are not the model's"), (unknown, "Mine")):
        with pytest.raises(fxplastic.SaveError, match=text):
            save(tmp_path / "net", plastic, optimizer=optimizer)
    assert list(tmp_path.iterdir()) == []


def test_an_optimizer_that_the_file_makes_up_is_not_built(tmp_path: Path):
    plastic = small()
    save(tmp_path / "net", plastic, optimizer=torch.optim.SGD(plastic.parameters()))
    manifest = json.loads((tmp_path / "net" / "fxplastic.json").read_text())
    edit(tmp_path / "net", optimizer=manifest["optimizer"] | {"class": "torch.Optimizer"})
    with pytest.raises(fxplastic.SaveError, match=r"is a torch\.Optimizer, which is not built"):
        load(tmp_path / "net", Net)


def test_a_state_dict_under_other_names_is_refused(tmp_path: Path):
    plastic = small()
    plastic.register_state_dict_post_hook(
        lambda module, state, prefix, local: state.update(other=state.pop("first.bias"))
    )
    with pytest.raises(fxplastic.SaveError, match=r"the state dict has no 'first\.bias'"):
        save(tmp_path / "net", plastic)


def test_a_manifest_without_a_key_and_a_builder_without_a_module_are_refused(tmp_path: Path):
    save(tmp_path / "net", small())
    with pytest.raises(fxplastic.SaveError, match=r"made a int, no module"):
        load(tmp_path / "net", lambda: 3)
    path = tmp_path / "net" / "fxplastic.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    del manifest["inputs"]
    path.write_text(json.dumps(manifest), encoding="utf-8")
    edit(tmp_path / "net")
    with pytest.raises(fxplastic.SaveError, match=r"has no key 'inputs'"):
        load(tmp_path / "net", Net)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"extra": {"model": object()}}, fxplastic.SaveError, r"extra\['model'\] is a object"),
        ({"arguments": {"act": nn.ReLU}, "model": "test_resnet"}, fxplastic.SaveError, "arguments"),
        ({"model": "resnt18"}, fxplastic.ModelError, "did you mean timm/resnet18"),
    ],
)
def test_what_no_file_holds_is_refused_and_leaves_nothing(
    options, error, text: str, tmp_path: Path
):
    with pytest.raises(error, match=text):
        save(tmp_path / "net", small(), **options)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_overwritten_when_asked_and_only_if_it_was_saved(tmp_path: Path):
    save(tmp_path / "net", small(0))
    with pytest.raises(fxplastic.SaveError, match=r"exists; give another name, or overwrite=True"):
        save(tmp_path / "net", small(1))
    save(tmp_path / "net", small(1), overwrite=True)
    assert same(load(tmp_path / "net", Net).plastic, small(1))
    (tmp_path / "photos").mkdir()
    with pytest.raises(fxplastic.SaveError, match=r"is no folder that fxplastic\.save wrote"):
        save(tmp_path / "photos", small(1), overwrite=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["net", "photos"]


def test_who_may_read_new_files_may_read_saved_ones(tmp_path: Path):
    (tmp_path / "usual").write_text("")
    save(tmp_path / "net", small(0))
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "net").iterdir()}
    assert modes == {(tmp_path / "usual").stat().st_mode & 0o777}


def test_a_save_that_fails_leaves_the_older_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    save(tmp_path / "net", small(0))
    monkeypatch.setattr("fxplastic.saving.files._sync", lambda path: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save(tmp_path / "net", small(1), overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["net"]
    assert same(load(tmp_path / "net", Net).plastic, small(0))

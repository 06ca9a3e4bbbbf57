"""Make docs/approximate.md: what `approximate=True` does to a model's function, measured.

python -m tools.approximate     # a few minutes
"""

import sys
import warnings
from pathlib import Path

import torch

import fxplastic
from fxplastic.coverage import coverage
from fxplastic.trial import Trial, distance
from fxplastic.verify import masked
from fxplastic.zoo.catalog import Entry, build, own_inputs
from fxplastic.zoo.rows import origin

TABLE = Path(__file__).resolve().parent.parent / "docs" / "approximate.md"
MODELS = (
    ("timm", "test_vit", {}),
    ("timm", "vit_tiny_patch16_224", {"img_size": 64}),
    ("timm", "swin_tiny_patch4_window7_224", {"img_size": 64}),
    ("timm", "convnext_atto", {}),
    ("timm", "convnextv2_atto", {}),
    ("timm", "mambaout_femto", {}),
    ("timm", "poolformerv2_s12", {}),
    ("timm", "mixer_s32_224", {"img_size": 64}),
    ("transformers", "llama", {}),
    ("transformers", "bert", {}),
)  # fmt: skip
TURNED = (0.02, 0.1, 0.3)
GROWN = (0.1, 0.5, 1.0)

HEAD = """# What `approximate=True` does

`plasticize(model, approximate=True)` lists groups that a norm averages over, too: streams under
LayerNorm, GroupNorm, RMSNorm (written out or not), global response norm. They have `exact=False`.
**A plan for them changes the function**: a copy shifts the mean and the variance of all neurons,
and so does a neuron that is gone. Nothing else about them is approximate: shapes, sites, optimizer
state and the check of labels are as for exact groups.

How much, by `python -m tools.approximate` ({made}): float64, random weights whose constant
parameters were spread, 64 x 64 images, eval mode; turnover with uneven shares and growth with even
ones, of the approximate groups alone, all of them at once. Everything is the largest difference of
any output over the largest output.

- *turnover*: difference from the model whose pruned neurons' consumers are zero, and beside it, in
  brackets, what that masking itself changes.
- *growth*: difference from the model as it was. Growing by exactly one copy of every neuron leaves
  mean and variance what they were: then it is exact.
- *coverage*: slots in groups, exact ones and then all.

| model | approximate groups | coverage | turnover 2 % | 10 % | 30 % | growth 10 % | 50 % | 100 % |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |
"""
TAIL = """
The same plans on exact groups differ by 1e-15. So: use approximate groups where a network is
trained on afterwards, with small steps; and not where its function must survive.
"""


def line(library: str, name: str, options: dict[str, int]) -> str:
    entry = Entry(library, name)
    torch.manual_seed(0)
    model = build(entry, options, "cpu").double()
    args, kwargs = own_inputs(entry, model).make("cpu", torch.float64)
    if library == "timm":
        args = (torch.zeros(2, 3, 64, 64, dtype=torch.float64),)
    plastic = fxplastic.plasticize(model, kwargs or args, attention="value", approximate=True)
    rough = [n for n, group in plastic.groups.items() if not group.exact]
    trial = Trial.of(plastic, args, kwargs, seed=0)
    module = trial.module
    whole = trial.outputs(module, training=False)
    cells = []
    for ratio in TURNED:
        plan = fxplastic.Plan.random(module, turnover=ratio, seed=1, groups=rough)
        reference = trial.outputs(masked(module, module.groups, plan), training=False)
        turned = trial.outputs(fxplastic.rewrite(module, plan).module, training=False)
        cells.append(f"{distance(turned, reference):.1e} ({distance(reference, whole):.1e})")
    for ratio in GROWN:
        plan = fxplastic.Plan.random(module, grow=ratio, seed=1, shares="even", groups=rough)
        try:
            wider = fxplastic.rewrite(module, plan).module
        except fxplastic.WidthError:
            cells.append("refused")
        else:
            cells.append(f"{distance(trial.outputs(wider, training=False), whole):.1e}")
    parameters = list(plastic.named_parameters())
    every = {n: fxplastic.ChannelGroup(n, g.size, True, g.sites, g.blocks) for n, g in
             plastic.groups.items()}  # fmt: skip
    shares = [coverage(parameters, groups).share for groups in (plastic.groups, every)]
    covered = " to ".join(f"{share:.3f}" for share in shares)
    return f"| {entry.key} | {len(rough)} | {covered} | {' | '.join(cells)} |"


def main() -> int:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    found = origin()
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    made = f"{versions}; {found['machine']}; commit {found['commit']}"
    lines = []
    for model in MODELS:
        lines.append(line(*model))
        print(lines[-1], flush=True)
    TABLE.write_text(HEAD.format(made=made) + "\n".join(lines) + "\n" + TAIL, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

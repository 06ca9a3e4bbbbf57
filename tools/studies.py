"""The comparisons behind docs/results.md: which runs, and what each is compared with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Changes = Mapping[str, Any]


@dataclass(frozen=True)
class Arm:
    """Runs that differ from a study's base in some keys of the configuration.

    Attributes:
        name: unique in its study.
        changes: keys of `fxplastic.training.Config`.
        against: the arm that it is compared with, seed by seed; none for one that others are
            compared with.
        other_seed: train with another seed than the arm that it is compared with.
    """

    name: str
    changes: Changes
    against: str | None = "fixed"
    other_seed: bool = False


@dataclass(frozen=True)
class Study:
    """A table of arms that share data, budget and seeds.

    Attributes:
        title: heading of the table.
        base: what all arms have in common.
        arms: one row each.
        seeds: how many.
        confirm: show the first half of the seeds, by which one chooses, and the other half, by
            which the choice is confirmed, apart.
    """

    title: str
    base: Changes
    arms: tuple[Arm, ...]
    seeds: int = 10
    confirm: bool = False


OFF: Changes = {"turnover": False}
GR: Changes = {"score_loss": "weighted"}
NET: Changes = {**GR, "criterion": "net"}
ADJUSTED: Changes = {"loss": "logit_adjustment"}


def resnet(width: int) -> Changes:
    """A ResNet of ten layers whose first stage has this width (0.3 million parameters at 16)."""
    channels = [width * k for k in (1, 2, 4, 8)]
    stem = {"stem_width": width // 2, "stem_type": "deep"}
    return {"model": "resnet10t", "model_args": {"channels": channels, **stem}}


DIGITS: Changes = {
    "data": "digits-lt", "imbalance": 100.0, **resnet(16), "epochs": 24, "batch": 32, "lr": 0.05,
    "warmup": 2, "every": 6, "last": 18, "ratio": 0.3,
}  # fmt: skip

ADAMW: Changes = {"optimizer": "adamw", "lr": 2e-3, "weight_decay": 0.05}
SMALL: dict[str, Changes] = {
    "ResNeXt": {
        "model": "resnext50_32x4d",
        "model_args": {
            "layers": [1, 1, 1, 1], "channels": [16, 32, 64, 128], "cardinality": 4,
            "base_width": 16, "stem_width": 8, "stem_type": "deep",
        },
    },
    "ConvNeXt": {
        "model": "convnext_atto",
        "model_args": {"depths": [1, 1, 2, 1], "dims": [16, 32, 64, 128], "patch_size": 2},
        **ADAMW,
    },
    "ViT": {
        "model": "vit_tiny_patch16_224",
        "model_args": {
            "img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 4, "num_heads": 2,
        },
        **ADAMW,
    },
    "MambaOut": {
        "model": "mambaout_femto",
        "model_args": {"depths": [1, 1, 2, 1], "dims": [16, 32, 64, 128]},
        **ADAMW,
    },
}  # fmt: skip
RENDERED: Changes = {
    "data": "characters-lt", "imbalance": 100.0, **resnet(32), "epochs": 10, "batch": 128,
    "lr": 0.1, "warmup": 1, "every": 3, "last": 6, "ratio": 0.3,
}  # fmt: skip


def policy(**values: Any) -> Changes:
    """Changes of the policy alone."""
    return {"policy_args": values}


CONTROLS = (
    Arm("fixed", OFF, against=None),
    Arm("fixed, another seed", OFF, other_seed=True),
    Arm("turnover", {}),
    Arm("random score", {"criterion": "random"}),
    Arm("inverted score", {"copy": "lowest"}),
    Arm("slots drawn afresh", policy(fill="fresh")),
)

STUDIES: dict[str, Study] = {
    "controls": Study("Controls", DIGITS, CONTROLS),
    "criteria": Study(
        "What a neuron's score is",
        DIGITS,
        (
            Arm("fixed", OFF, against=None),
            *(
                Arm(f"{name}", {"criterion": name})
                for name in ("magnitude", "net", "last", "taylor", "l1", "random")
            ),
            Arm("magnitude, class-weighted score", GR),
            Arm("magnitude, inverse order", {"copy": "lowest"}),
        ),
    ),
    "ablation": Study(
        "The paper's ablation, and the exact policy",
        DIGITS,
        (
            Arm("fixed", OFF, against=None),
            Arm("turnover", policy(scaling="none")),
            Arm("+ GR", {**GR, **policy(scaling="none")}),
            Arm("+ GR + WS", {**GR, **policy(scaling="norm")}),
            Arm("+ GR + WS + GDA (paper)", {**GR, "policy": "paper"}),
            Arm("GR, exact", GR),
            Arm("GR, exact, relative noise", {**GR, **policy(noise="relative")}),
            Arm("GR, exact, BatchNorm re-estimated", {**GR, "reestimate_bn": True}),
        ),
    ),
    "ratio": Study(
        "How much turns over",
        DIGITS,
        (
            Arm("fixed", OFF, against=None),
            *(Arm(f"ratio {r}", {**GR, "ratio": r}) for r in (0.1, 0.2, 0.3, 0.4, 0.5)),
            Arm("0.3 by the network", {**GR, "scope": "network"}),
        ),
    ),
    "schedule": Study(
        "When neurons turn over",
        DIGITS,
        (
            Arm("fixed", OFF, against=None),
            Arm("every 3, to 21", {**GR, "every": 3, "last": 21}),
            Arm("every 6, to 18", GR),
            Arm("once, after 6", {**GR, "every": 6, "last": 6}),
            Arm("once, after 18", {**GR, "every": 6, "first": 18, "last": 18}),
            *(
                Arm(f"adaptive, {s}", {**GR, "schedule": "adaptive", "stability": s, "apart": 3})
                for s in (0.5, 0.6, 0.7, 0.8, 0.9)
            ),
        ),
    ),
    "imbalance 10": Study("Imbalance 10", {**DIGITS, "imbalance": 10.0}, CONTROLS),
    "carry": Study(
        "What the optimizer remembers of a copy",
        DIGITS,
        (
            Arm("fixed", OFF, against=None),
            *(Arm(f"SGD, {c}", {**GR, "carry": c}) for c in ("law", "copy", "zero")),
            Arm("fixed, AdamW", {**OFF, "optimizer": "adamw", "lr": 2e-3}, against=None),
            *(
                Arm(
                    f"AdamW, {c}",
                    {**GR, "carry": c, "optimizer": "adamw", "lr": 2e-3},
                    against="fixed, AdamW",
                )
                for c in ("law", "copy", "zero")
            ),
        ),
    ),
    "parting": Study(
        "How copies are made to part",
        DIGITS,
        (
            Arm("fixed", OFF, against=None),
            Arm("fixed, AdamW", {**OFF, "optimizer": "adamw", "lr": 2e-3}, against=None),
            *(
                Arm(f"{label}, {name}", {**GR, **of, **policy(**how)}, against=against)
                for label, how in (
                    ("even", {"shares": "even"}),
                    ("uneven", {"shares": "uneven"}),
                    ("signed", {"shares": "signed"}),
                    ("even, zero-sum noise 0.3", {"shares": "even", "zero_sum": 0.3}),
                    ("even, relative BatchNorm noise", {"shares": "even", "noise": "relative"}),
                )
                for name, of, against in (
                    ("SGD", {}, "fixed"),
                    ("AdamW", {"optimizer": "adamw", "lr": 2e-3}, "fixed, AdamW"),
                )
            ),
        ),
    ),
    "baselines": Study(
        "Losses for long tails, alone and with turnover",
        DIGITS,
        (
            Arm("fixed", OFF, against=None),
            *(
                arm
                for label, loss in (
                    ("weighted", "weighted"),
                    ("deferred reweighting", "drw"),
                    ("logit adjustment", "logit_adjustment"),
                )
                for arm in (
                    Arm(f"{label}, fixed", {**OFF, "loss": loss}),
                    Arm(f"{label}, turnover", {"loss": loss}, against=f"{label}, fixed"),
                )
            ),
        ),
    ),
    "width": Study(
        "Networks with less and more to spare",
        DIGITS,
        tuple(
            arm
            for width in (8, 16, 32)
            for arm in (
                Arm(
                    f"width {width}, fixed",
                    {**OFF, **resnet(width)},
                    against=None,
                ),
                Arm(
                    f"width {width}, turnover",
                    {**GR, **resnet(width)},
                    against=f"width {width}, fixed",
                ),
            )
        ),
    ),
    "architectures": Study(
        "Other architectures",
        DIGITS,
        tuple(
            arm
            for label, changes in SMALL.items()
            for arm in (
                Arm(f"{label}, fixed", {**OFF, **changes}, against=None),
                Arm(f"{label}, turnover", {**GR, **changes}, against=f"{label}, fixed"),
            )
        ),
    ),
    "imbalance 500": Study(
        "Imbalance 500, and an adaptive schedule",
        {**DIGITS, "imbalance": 500.0},
        (
            Arm("fixed", OFF, against=None),
            Arm("every 6, to 18", GR),
            *(
                Arm(f"adaptive, {s}", {**GR, "schedule": "adaptive", "stability": s, "apart": 3})
                for s in (0.6, 0.8)
            ),
        ),
    ),
    "rendered": Study(
        "Rendered characters",
        RENDERED,
        (
            Arm("fixed", OFF, against=None),
            Arm("fixed, another seed", OFF, other_seed=True),
            Arm("paper", {**GR, "policy": "paper"}),
            Arm("exact", GR),
            Arm("last batch's score", {**GR, "criterion": "last"}),
            Arm("random score", {"criterion": "random"}),
            Arm("slots drawn afresh", {**GR, **policy(fill="fresh")}),
            Arm("logit adjustment, fixed", {**OFF, "loss": "logit_adjustment"}),
            Arm(
                "logit adjustment, exact",
                {"loss": "logit_adjustment"},
                against="logit adjustment, fixed",
            ),
        ),
        seeds=5,
    ),
    "search": Study(
        "A search for a setting that helps",
        DIGITS,
        (
            Arm("fixed", OFF, against=None),
            Arm("scores of few-shot classes alone", {"score_loss": "few"}),
            Arm("signed, 0.1", {**GR, "ratio": 0.1, **policy(shares="signed")}),
            Arm("signed, 0.2", {**GR, "ratio": 0.2, **policy(shares="signed")}),
            Arm("last stage alone", {**GR, "overrides": {"*": 0, "layer4*": 0.3}}),
            Arm("all but the last stage", {**GR, "overrides": {"layer4*": 0}}),
            Arm("relative noise, 0.2", {**GR, "ratio": 0.2, **policy(noise="relative")}),
            Arm("zero-sum noise 0.3, 0.2", {**GR, "ratio": 0.2, **policy(zero_sum=0.3)}),
            Arm("once, after 12, 0.2", {**GR, "ratio": 0.2, "first": 12, "last": 12}),
            Arm("fresh, 0.2", {**GR, "ratio": 0.2, **policy(fill="fresh")}),
            Arm("net, signed, 0.2", {**NET, "ratio": 0.2, **policy(shares="signed")}),
            Arm("net, fresh, 0.2", {**NET, "ratio": 0.2, **policy(fill="fresh")}),
            Arm("net, fresh, 0.3", {**NET, **policy(fill="fresh")}),
            Arm("logit adjustment, fixed", {**OFF, **ADJUSTED}, against=None),
            Arm(
                "logit adjustment, net, signed, 0.2",
                {**ADJUSTED, "criterion": "net", "ratio": 0.2, **policy(shares="signed")},
                against="logit adjustment, fixed",
            ),
            Arm(
                "logit adjustment, net, fresh, 0.2",
                {**ADJUSTED, "criterion": "net", "ratio": 0.2, **policy(fill="fresh")},
                against="logit adjustment, fixed",
            ),
            Arm("fixed, longer", {**OFF, "epochs": 32}),
        ),
        confirm=True,
    ),
}

# Study, and two of its arms that are compared with each other.
DIRECT = (
    ("criteria", "magnitude", "random"),
    ("criteria", "magnitude", "last"),
    ("criteria", "magnitude", "l1"),
    ("criteria", "magnitude", "taylor"),
    ("criteria", "net", "magnitude"),
    ("criteria", "magnitude, class-weighted score", "magnitude"),
    ("ablation", "+ GR", "turnover"),
    ("ablation", "+ GR + WS", "+ GR"),
    ("ablation", "+ GR + WS + GDA (paper)", "+ GR + WS"),
    ("ablation", "GR, exact", "+ GR + WS + GDA (paper)"),
    ("ablation", "GR, exact, relative noise", "GR, exact"),
    ("controls", "slots drawn afresh", "turnover"),
    ("ratio", "ratio 0.2", "ratio 0.3"),
    ("schedule", "adaptive, 0.5", "every 6, to 18"),
    ("schedule", "adaptive, 0.6", "every 6, to 18"),
    ("schedule", "adaptive, 0.7", "every 6, to 18"),
    ("imbalance 500", "adaptive, 0.6", "every 6, to 18"),
    ("carry", "SGD, law", "SGD, copy"),
    ("carry", "SGD, law", "SGD, zero"),
    ("carry", "AdamW, law", "AdamW, copy"),
    ("carry", "AdamW, zero", "AdamW, law"),
    ("parting", "uneven, SGD", "even, SGD"),
    ("parting", "uneven, AdamW", "even, AdamW"),
    ("parting", "signed, SGD", "uneven, SGD"),
    ("parting", "signed, AdamW", "uneven, AdamW"),
    ("search", "fresh, 0.2", "fixed"),
    ("search", "fixed, longer", "fixed"),
    ("search", "fresh, 0.2", "fixed, longer"),
    ("rendered", "exact", "random score"),
    ("rendered", "exact", "last batch's score"),
    ("rendered", "exact", "paper"),
    ("rendered", "slots drawn afresh", "exact"),
)

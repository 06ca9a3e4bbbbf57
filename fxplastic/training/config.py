"""Everything that a training run depends on, as one immutable value."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal, get_type_hints

from fxplastic.counts import Scope
from fxplastic.errors import TrainingError
from fxplastic.policy import Carry, Policy
from fxplastic.schedule import Adaptive, Schedule
from fxplastic.scores import Criterion
from fxplastic.training.losses import LossName
from fxplastic.training.options import Kind, Option, checked, suggestion

NOT_COMPARED = ("out", "device")  # a run may be moved


def _about(
    help: str,  # noqa: A002, argparse's own word
    *,
    low: float | None = None,
    above: float | None = None,
    high: float | None = None,
    below: float | None = None,
) -> Mapping[str, Option]:
    return {"option": Option(help, low, above, high, below)}


@dataclass(frozen=True)
class Config:
    """A run: two runs with equal configurations on one machine give the same weights.

    Epochs count from 1. The file format has the same keys, and so has the command line, with
    dashes. Values are checked when the object is made.

    Raises:
        TrainingError: a value of the wrong type or out of range, or two that do not go together.

    >>> Config(epochs=20, every=5).when
    Schedule(every=5, first=None, last=19, warmup=0, window=1)
    >>> Config(ratio=0.7)
    Traceback (most recent call last):
    fxplastic.errors.TrainingError: ratio is 0.7; give a number above 0 and at most 0.5
    """

    label: str = field(default="", metadata=_about("a name for the run, in its results"))
    out: str = field(default="runs/train", metadata=_about("folder of the run"))
    seed: int = field(default=0, metadata=_about("of weights, batches and turnovers", low=0))
    device: str = field(
        default="auto", metadata=_about("cpu, cuda, cuda:1, ...; auto: a GPU if any")
    )

    model: str = field(default="resnet18", metadata=_about("a model of timm"))
    model_args: Mapping[str, object] = field(
        default_factory=dict, metadata=_about("further arguments of timm.create_model")
    )

    data: str = field(default="digits-lt", metadata=_about("a set of fxplastic.data"))
    root: str | None = field(default=None, metadata=_about("folder of the data"))
    download: bool = field(default=False, metadata=_about("fetch data that is not there"))
    imbalance: float = field(default=100.0, metadata=_about("largest class / smallest", low=1))
    image_size: int | None = field(default=None, metadata=_about("side in pixels", low=1))
    data_seed: int = field(default=0, metadata=_about("of the samples that are kept", low=0))
    workers: int = field(default=0, metadata=_about("processes that load images", low=0))

    epochs: int = field(default=200, metadata=_about("epochs of training", low=1))
    batch: int = field(default=128, metadata=_about("samples in a batch", low=2))
    optimizer: str = field(default="sgd", metadata=_about("an optimizer of timm (sgd: Nesterov)"))
    lr: float = field(default=0.1, metadata=_about("highest learning rate", above=0))
    weight_decay: float = field(default=5e-4, metadata=_about("of weights, not of biases", low=0))
    momentum: float = field(default=0.9, metadata=_about("where there is one", low=0, below=1))
    warmup: int = field(default=5, metadata=_about("epochs of linear warm-up, then cosine", low=0))
    clip: float | None = field(default=None, metadata=_about("largest gradient norm", above=0))
    ema: float | None = field(
        default=None, metadata=_about("decay of averaged weights, with warm-up", above=0, below=1)
    )
    amp: bool = field(default=False, metadata=_about("float16 autocast with loss scaling, on CUDA"))
    compile: bool = field(default=False, metadata=_about("run the model through torch.compile"))

    loss: LossName = field(
        default="cross_entropy", metadata=_about("see fxplastic.training.losses")
    )
    tau: float = field(default=1.0, metadata=_about("strength of the logit adjustment", above=0))
    drw_from: int | None = field(
        default=None, metadata=_about("first weighted epoch of drw; none: after 80 %", low=1)
    )

    turnover: bool = field(default=True, metadata=_about("duplicate and prune neurons"))
    ratio: float = field(default=0.3, metadata=_about("share of neurons", above=0, high=0.5))
    schedule: Literal["fixed", "adaptive"] = field(
        default="fixed", metadata=_about("every so many epochs, or when the scores have settled")
    )
    every: int = field(default=30, metadata=_about("epochs from turnover to turnover", low=1))
    window: int = field(default=1, metadata=_about("epochs scored before a turnover", low=1))
    stability: float = field(
        default=0.9, metadata=_about("adaptive: rank correlation that is settled", low=-1, high=1)
    )
    apart: int = field(default=2, metadata=_about("adaptive: epochs between turnovers", low=1))
    at_most: int | None = field(
        default=None, metadata=_about("adaptive: epochs without a turnover", low=1)
    )
    first: int | None = field(
        default=None, metadata=_about("epoch of the first turnover; none: every (apart)", low=1)
    )
    last: int | None = field(default=None, metadata=_about("no turnover after this epoch", low=1))
    criterion: Criterion = field(default="magnitude", metadata=_about("score of a neuron"))
    copy: Literal["highest", "lowest"] = field(
        default="highest", metadata=_about("which neurons are copied; lowest is a control")
    )
    score_loss: LossName | None = field(
        default=None, metadata=_about("loss that scores; none: the one that trains")
    )
    score_every: int = field(
        default=1, metadata=_about("score_loss scores every so many batches", low=1)
    )
    policy: Literal["exact", "paper"] = field(
        default="exact", metadata=_about("what becomes of the weights, see fxplastic.Policy")
    )
    policy_args: Mapping[str, object] = field(
        default_factory=dict, metadata=_about("fields of the policy to set otherwise")
    )
    carry: Carry = field(default="law", metadata=_about("how optimizer state follows"))
    scope: Scope = field(default="group", metadata=_about("among which neurons ranks are taken"))
    protect: tuple[str, ...] = field(default=(), metadata=_about("groups that stay as they are"))
    overrides: Mapping[str, object] = field(
        default_factory=dict, metadata=_about("ratios of single groups, by name")
    )
    min_width: int = field(default=1, metadata=_about("narrower groups stay as they are", low=1))
    reestimate_bn: bool = field(
        default=False, metadata=_about("BatchNorm statistics anew after each turnover")
    )

    evaluate: int = field(
        default=1,
        metadata=_about("epochs from one evaluation to the next; the last has one", low=1),
    )
    checkpoint: int = field(
        default=1, metadata=_about("epochs from checkpoint to checkpoint", low=1)
    )
    plot: bool = field(default=True, metadata=_about("draw the confusion matrix at the end"))
    tensorboard: bool = field(default=False, metadata=_about("write events for TensorBoard, too"))

    def __post_init__(self) -> None:
        for key, (kind, option) in options().items():
            # The one place where a frozen value is set: to its own type (3 to 3.0, list to tuple).
            object.__setattr__(self, key, checked(key, getattr(self, key), kind, option))
        _check_together(self)

    @property
    def when(self) -> Schedule | Adaptive:
        """The schedule of turnovers; none comes after the last epoch, to be left untrained.

        Raises:
            PlanError: its numbers do not go together.
        """
        last = self.epochs - 1 if self.last is None else self.last
        if self.schedule == "fixed":
            return Schedule(self.every, self.first, last, window=self.window)
        first = self.apart if self.first is None else self.first
        return Adaptive(self.stability, self.apart, self.at_most, first, last)

    @property
    def scaling(self) -> Policy:
        """What becomes of the weights in a turnover.

        Raises:
            TrainingError: `policy_args` has a key that is no field of a policy.
            PlanError: a value that the policy refuses.
        """
        known = {f.name for f in fields(Policy)} - {"carry"}  # which has a key of its own
        for key in self.policy_args:
            if key not in known:
                raise TrainingError(
                    f"policy_args has {key!r}{suggestion(key, known)}; give some of "
                    f"{', '.join(sorted(known))} (and carry as a key of its own)"
                )
        changes: dict[str, Any] = {"carry": self.carry, **self.policy_args}
        return replace(Policy.of(self.policy), **changes)

    @property
    def first_weighted(self) -> int:
        """The first epoch of deferred reweighting; as in Cao et al. (2019), 161 of 200."""
        return self.epochs * 4 // 5 + 1 if self.drw_from is None else self.drw_from


@functools.cache
def options() -> Mapping[str, tuple[Kind, Option]]:
    """Kind and option of each field, in order."""
    hints = get_type_hints(Config)
    return {f.name: (Kind.of(hints[f.name]), f.metadata["option"]) for f in fields(Config)}


def as_values(config: Config) -> dict[str, Any]:
    """The configuration as plain values, as JSON gives them back."""
    values: dict[str, Any] = json.loads(json.dumps(asdict(config)))
    return values


def differences(ours: Mapping[str, Any], stored: Mapping[str, Any]) -> tuple[str, ...]:
    """``key: stored -> ours`` for each key that differs, but for where the run is."""
    keys = dict.fromkeys([*ours, *stored])
    return tuple(
        f"{key}: {stored.get(key)!r} -> {ours.get(key)!r}"
        for key in keys
        if key not in NOT_COMPARED and stored.get(key) != ours.get(key)
    )


def _check_plain(key: str, table: Mapping[str, object]) -> None:
    """Refuse what could not be stored, and not be compared when the run is resumed."""
    try:
        json.dumps(table, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise TrainingError(
            f"{key} is {dict(table)!r}, which cannot be stored ({error}); give numbers, texts, "
            "true or false, lists and tables"
        ) from None


def _check_together(config: Config) -> None:
    _check_plain("model_args", config.model_args)
    _check_plain("policy_args", config.policy_args)
    _check_plain("overrides", config.overrides)
    if config.warmup >= config.epochs:
        raise TrainingError(
            f"warmup={config.warmup} leaves nothing of epochs={config.epochs}; give fewer epochs "
            f"of warm-up, at most {config.epochs - 1}"
        )
    if config.drw_from is not None and config.loss != "drw":
        raise TrainingError(f"drw_from={config.drw_from} has no effect on loss={config.loss!r}; "
                            "give loss='drw', or leave drw_from out")  # fmt: skip
    if config.first_weighted > config.epochs and config.loss == "drw":
        raise TrainingError(f"drw_from={config.first_weighted} lies past the last epoch, "
                            f"{config.epochs}; give an earlier one")  # fmt: skip
    if config.turnover:
        _check_schedule(config)
        _ = config.when, config.scaling  # what they refuse is refused here


def _check_schedule(config: Config) -> None:
    end = config.epochs - 1
    last = end if config.last is None else config.last
    if last > end:
        raise TrainingError(
            f"last={last}: the last turnover of epochs={config.epochs} that is still trained is "
            f"after epoch {end}; give at most that, or leave last out"
        )
    fixed = config.schedule == "fixed"
    if not fixed and config.window > 1:
        raise TrainingError(
            f"window={config.window} has no effect with schedule='adaptive', which looks at every "
            "epoch by itself; leave it out"
        )
    name = "first" if config.first is not None else "every" if fixed else "apart"
    first: int = getattr(config, name)
    if not fixed:
        first = max(first, config.apart)
    if first > last:
        raise TrainingError(
            f"the first turnover would be after epoch {first} ({name}={getattr(config, name)}), "
            f"and in a run of epochs={config.epochs} the last one is after epoch {last}; give a "
            f"smaller {name}, more epochs, or turnover=false"
        )
    if config.score_every > 1 and config.score_loss is None:
        raise TrainingError(
            f"score_every={config.score_every} has no effect without a score_loss; every batch of "
            "the training loss is scored"
        )

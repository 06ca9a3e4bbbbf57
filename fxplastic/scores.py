"""How much each neuron matters: gradient magnitude, accumulated over batches, and its rivals.

The score of a neuron is the sum over batches, and over its producer parameters, of the magnitude
of the loss gradient (Sakai and Hotta, arXiv 2507.09940, 2025). With class weights in the loss,
rare classes weigh more in it; `fxplastic.class_weights` makes them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.amp import GradScaler

from fxplastic.errors import ScoreError
from fxplastic.gradients import (
    all_finite,
    check_own_loss,
    dense,
    dense_gradient,
    unscaling,
    wide,
)
from fxplastic.plastic import Plastic, require_plastic
from fxplastic.sharded import here, reshard
from fxplastic.slices import Rows, Slices, pieces

Criterion = Literal["magnitude", "net", "last", "taylor", "l1", "random"]
Gradients = Callable[[nn.Parameter], Tensor | None]
_WITHOUT_GRADIENT = ("l1", "random")


class GradientScores:
    """One number per neuron, from every `update` since the last `reset`.

    Producer parameters count (filter rows, biases, norm weights), buffers do not; tied weights
    count once. The criteria:

    * ``"magnitude"``: the sum of abs(gradient) over batches and producer parameters;
    * ``"net"``: the sum over producer parameters of abs(sum of gradients over batches);
    * ``"last"``: like magnitude, of the last batch alone;
    * ``"taylor"``: abs(sum of gradient x weight over batches and consumer parameters), which is
      the first-order effect of masking the neuron (Molchanov et al., 2017). Over a filter in front
      of a BatchNorm the same sum would be zero;
    * ``"l1"``: the sum of abs(weight) over producer parameters, as they are when asked;
    * ``"random"``: a number from 0 to 1, the same for the same seed, name and number of resets.

    A batch with a gradient that is not finite (a step that a loss scaler skips) is left out and
    counted in `left_out`.

    Args:
        plastic: the model whose groups are scored; its parameters are not touched.
        criterion: what counts.
        seed: of random scores.
        averaged: whether their mean over processes is what is planned from, as `Plasticity` does.

    Raises:
        ScoreError: not a plastic module, or wrapped in something; no such criterion.
    """

    def __init__(
        self,
        plastic: Plastic,
        criterion: Criterion = "magnitude",
        *,
        seed: int = 0,
        averaged: bool = False,
    ) -> None:
        require_plastic(plastic, ScoreError)
        if criterion not in get_args(Criterion):
            raise ScoreError(
                f"criterion={criterion!r}; give one of {', '.join(map(repr, get_args(Criterion)))}"
            )
        reshard(plastic)
        self.criterion = criterion
        self._seed, self._averaged = seed, averaged
        self._slices = Slices(plastic, "consumer" if criterion == "taylor" else "producer")
        scored = {id(parameter) for parameter in self._slices.parameters}
        self._named = {n: p for n, p in plastic.named_parameters() if id(p) in scored}
        self._others = tuple(p for _, p in plastic.named_parameters() if id(p) not in scored)
        self._resets = 0
        self._forget()

    def reset(self) -> None:
        """Forget everything, for instance after a turnover."""
        self._resets += 1
        self._forget()

    def _forget(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._nets: dict[int, Tensor] = {}
        self._good: Tensor | None = None  # number of batches that counted, on the device
        self._updates = 0

    def update(self, scaler: GradScaler | None = None) -> None:
        """Add the gradients that are there now; once per step, before `zero_grad`.

        Call it after the last backward of the step: where gradients are accumulated over several
        backwards, they are then scored as a whole; where they are clipped, before or after it, and
        always the same. All work is on the parameters' devices, and nothing waits for them. A
        parameter without a gradient adds nothing.

        Args:
            scaler: a loss scaler whose `unscale_` was not called in this step: gradients are
                divided by its scale.
        """
        self._score(dense_gradient, unscaling(scaler))

    def update_from(self, loss: Tensor) -> None:
        """Add the gradients of `loss` alone; those of the training step are left as they are.

        For scores with class weights of a network that trains without them. It takes a backward of
        its own through the graph of `loss`, which is kept for the step's own: with every batch
        scored, a step costs about half as much again; score every k-th batch instead.

        Args:
            loss: a scalar that depends on the model's parameters, before its `backward`.

        Raises:
            ScoreError: `loss` is no scalar with a graph.
        """
        averaged = self._averaged and self.criterion != "net"
        check_own_loss(loss, averaged, self._slices.mesh is not None)
        wanted = [p for p in self._slices.parameters if p.requires_grad]
        if not wanted:
            raise ScoreError(
                "none of the parameters that are scored requires a gradient; unfreeze some, or "
                "score by criterion='l1'"
            )
        found = torch.autograd.grad(loss, wanted, retain_graph=True, allow_unused=True)
        own = {id(p): dense(grad) for p, grad in zip(wanted, found, strict=True)}
        self._score(lambda parameter: own.get(id(parameter)), None)

    def values(self) -> dict[str, Tensor]:
        """Scores per group, ``[size]``, on the device of the group's parameters; copies.

        float64 for float64 gradients, float32 for all others. Zero for a group whose parameters
        never had a gradient; NaN for all where no batch had a finite one.

        Raises:
            ScoreError: `update` was not called since the beginning or the last `reset`.
        """
        return {name: row.abs() for name, row in self.signed_values().items()}

    def signed_values(self) -> dict[str, Tensor]:
        """`values` before their magnitude is taken: what processes have to average.

        Raises:
            ScoreError: as for `values`.
        """
        if self.criterion == "random":
            return {name: self._drawn(name) for name in self._slices.groups}
        with torch.no_grad():
            if self.criterion == "l1":
                return self._slices.added(
                    self._slices.sums(lambda p: lambda rows: here(p.detach())[rows].abs())
                )
            if self._good is None:
                raise ScoreError(
                    "no gradient has been scored; call update() after backward() for at least one "
                    "batch"
                )
            net = self.criterion == "net"
            result = self._slices.added(self._slices.sums(self._net) if net else self._sums)
            some = self._good > 0
            return {n: torch.where(some.to(r.device), r, torch.nan) for n, r in result.items()}

    @property
    def updates(self) -> int:
        """Number of batches since the last `reset`."""
        return self._updates

    @property
    def left_out(self) -> int:
        """Number of them with a gradient that is not finite; asking waits for the device."""
        return 0 if self._good is None else self._updates - int(self._good)

    # ------------------------------------------------------------ across a stop
    def state_dict(self) -> dict[str, Any]:
        """What was scored so far, for `load_state_dict`; copies."""
        names = {id(p): name for name, p in self._named.items()}
        return {
            "criterion": self.criterion,
            "resets": self._resets,
            "updates": self._updates,
            "good": None if self._good is None else self._good.clone(),
            "sums": {name: row.clone() for name, row in self._sums.items()},
            "nets": {names[key]: net.clone() for key, net in self._nets.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from where `state_dict` was taken, on a model with the same groups.

        Raises:
            ScoreError: it is of another criterion or model; nothing was changed.
        """
        if state["criterion"] != self.criterion:
            raise ScoreError(
                f"the state has scores by {state['criterion']!r}, these are by "
                f"{self.criterion!r}; make them with the same criterion"
            )
        sizes = {name: (group.size,) for name, group in self._slices.groups.items()}
        for name, row in state["sums"].items():
            if sizes.get(name) != tuple(row.shape):
                raise ScoreError(
                    f"the state has {row.numel()} scores for group {name!r}, which this model does "
                    "not have in that size; load it for the model that it was taken from"
                )
        shapes = {name: here(parameter.detach()).shape for name, parameter in self._named.items()}
        for name, net in state["nets"].items():
            if shapes.get(name) != net.shape:
                raise ScoreError(
                    f"the state has gradients of {name!r} in shape {tuple(net.shape)}, which is "
                    "not scored here; load it for the model that it was taken from"
                )
        self._resets, self._updates, self._good = (state[k] for k in ("resets", "updates", "good"))
        self._sums = {
            n: row.to(self._slices.zeros(n, row.dtype).device) for n, row in state["sums"].items()
        }
        self._nets = {
            id(self._named[n]): net.to(self._named[n].device, copy=True)
            for n, net in state["nets"].items()
        }

    # ------------------------------------------------------------ one batch
    def _score(self, gradient_of: Gradients, factor: Tensor | None) -> None:
        self._updates += 1
        if self.criterion in _WITHOUT_GRADIENT:
            return
        with torch.no_grad():
            batch = self._slices.sums(lambda parameter: self._of_batch(parameter, gradient_of))
            if factor is not None:
                batch = {name: row * factor.to(row.device) for name, row in batch.items()}
            self._add(batch, gradient_of, factor)

    def _of_batch(self, parameter: nn.Parameter, gradient_of: Gradients) -> Rows | None:
        grad = gradient_of(parameter)
        if grad is None:
            return None
        if self.criterion == "net":
            return grad.__getitem__
        if self.criterion == "taylor":  # in low precision a product could be infinite, or nothing
            weight = here(parameter.detach())
            return lambda rows: wide(grad[rows]) * wide(weight[rows])
        return lambda rows: grad[rows].abs()

    def _add(self, batch: dict[str, Tensor], gradient_of: Gradients, factor: Tensor | None) -> None:
        """Add a batch where it is finite, without asking on the host whether it is."""
        good = all_finite([*batch.values(), *self._rest(gradient_of)])
        good = self._slices.everywhere(good)
        for name, row in batch.items():
            before = self._sums.get(name)
            before = torch.zeros_like(row) if before is None else before
            after = row if self.criterion == "last" else before + row
            self._sums[name] = torch.where(good.to(row.device), after, before)
        if self.criterion == "net":
            self._add_nets(good, gradient_of, factor)
        self._good = good.long() if self._good is None else self._good + good

    def _rest(self, gradient_of: Gradients) -> list[Tensor]:
        """Sums of the other gradients: a loss scaler skips a step for these, too."""
        grads = [gradient_of(parameter) for parameter in self._others]
        return [grad.sum(dtype=torch.float32) for grad in grads if grad is not None]

    def _add_nets(self, good: Tensor, gradient_of: Gradients, factor: Tensor | None) -> None:
        for parameter in self._slices.parameters:
            grad = gradient_of(parameter)
            if grad is None:
                continue
            here = good.to(grad.device)
            scale = None if factor is None else factor.to(grad.device)
            if id(parameter) not in self._nets:
                self._nets[id(parameter)] = torch.zeros_like(wide(grad))
            net = self._nets[id(parameter)]
            for rows in pieces(grad):
                piece = wide(grad[rows])
                net[rows] += torch.where(here, piece if scale is None else piece * scale, 0.0)

    def _net(self, parameter: nn.Parameter) -> Rows | None:
        total = self._nets.get(id(parameter))
        return None if total is None else lambda rows: total[rows].abs()

    def _drawn(self, name: str) -> Tensor:
        draw = random.Random(f"{self._seed}:{self._resets}:{name}")
        zeros = self._slices.zeros(name, torch.float32)
        return zeros + torch.tensor([draw.random() for _ in zeros], device=zeros.device)

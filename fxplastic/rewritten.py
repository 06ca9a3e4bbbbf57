"""What `rewrite` returns, and how schedulers, gradient scalers and averages follow it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar, cast

from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from fxplastic.axis_maps import AxisMap, gathered
from fxplastic.errors import RewriteError
from fxplastic.memory import laid_like
from fxplastic.plastic import Plastic
from fxplastic.resize import with_tensors

PlasticT = TypeVar("PlasticT", bound=Plastic)


@dataclass(frozen=True, eq=False)
class Rewritten(Generic[PlasticT]):
    """What `rewrite` returns.

    Attributes:
        module: the rewritten copy.
        optimizer: a new optimizer of the same class for its parameters, with its state; `None`
            where none was given.
        maps: for each tensor that changed, its old shape, and how the new one was made.
        former: `id` of the optimizer that was given.
    """

    module: PlasticT
    optimizer: Optimizer | None
    maps: Mapping[str, tuple[tuple[int, ...], tuple[AxisMap, ...]]] = field(default_factory=dict)
    former: int | None = None

    def rebind(self, *helpers: Any) -> None:
        """Let what helps in training follow the rewrite, in place.

        Args:
            helpers: learning-rate schedulers, which step the optimizer that they were made with
                (those inside `SequentialLR` and `ChainedScheduler` follow); gradient scalers; and
                wrappers that hold an average of the old model's weights as their ``module``
                (`torch.optim.swa_utils.AveragedModel`, `timm.utils.ModelEmaV3`).

        Raises:
            RewriteError: something else was given, there is no new optimizer to bind to, or an
                average has not the old model's tensors; nothing was changed.
        """
        bound = [(helper, self._bound(helper)) for helper in helpers]
        for helper, average in bound:
            if average is not None:
                helper.module = average
            elif isinstance(helper, GradScaler):
                states = helper._per_optimizer_states
                if self.former in states:
                    states[id(self.optimizer)] = states.pop(self.former)
            else:
                self._rebind_scheduler(helper)

    def _bound(self, helper: Any) -> nn.Module | None:
        """The rewritten average of a wrapper; `None` for what is bound to the optimizer."""
        if isinstance(helper, nn.DataParallel | nn.parallel.DistributedDataParallel):
            raise RewriteError(
                f"a {type(helper).__name__} holds the model itself and no average of it; wrap "
                "result.module anew"
            )
        if isinstance(helper, nn.Module) and isinstance(getattr(helper, "module", None), nn.Module):
            average: Any = self.average(cast("nn.Module", helper.module))
            return cast("nn.Module", average)
        if not (isinstance(helper, GradScaler) or hasattr(helper, "optimizer")):
            raise RewriteError(
                f"a {type(helper).__name__} cannot be bound to the rewritten model; give "
                "schedulers, gradient scalers, or wrappers with an average as their module"
            )
        if self.optimizer is None:
            raise RewriteError("there is no optimizer to bind to; pass it to rewrite")
        return None

    def _rebind_scheduler(self, scheduler: Any) -> None:
        _wrap_step(self.optimizer, scheduler.optimizer)
        scheduler.optimizer = self.optimizer
        for inner in getattr(scheduler, "_schedulers", ()):
            self._rebind_scheduler(inner)

    def average(self, model: nn.Module) -> PlasticT:
        """An average of the old model's weights, rewritten as the model was.

        Args:
            model: with the tensors of the old model, by name and shape: a copy of the model or of
                its plastic form. It is left alone.

        Returns:
            A copy of the rewritten module with these weights, on their device and dtype.

        Raises:
            RewriteError: a tensor is missing or has another shape.
        """
        if not isinstance(model, nn.Module):
            raise RewriteError(f"the average is a {type(model).__name__}; give a module")
        given: dict[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))
        given |= model.named_buffers(remove_duplicate=False)
        module: Any = self.module
        new: dict[str, Tensor] = {}
        for name, tensor in (*module.named_parameters(), *module.named_buffers()):
            if name not in given:
                raise RewriteError(
                    f"the average has no {name!r}; give a copy of the model before the rewrite"
                )
            old, maps = self.maps.get(name, (tuple(tensor.shape), ()))
            value = gathered(given[name], maps) if given[name].shape == old else None
            if value is None:
                raise RewriteError(
                    f"{name!r} of the average has shape {tuple(given[name].shape)}; give a copy of "
                    "the model as it was before the rewrite"
                )
            new[name] = laid_like(value.detach().clone(), given[name])
        result: Any = with_tensors(module, new)
        for name, parameter in result.named_parameters():
            parameter.requires_grad_(given[name].requires_grad)
        return cast("PlasticT", result.train(model.training))


def _wrap_step(new: Any, old: Any) -> None:
    """Let schedulers see that `new` steps: they warn of an optimizer that none was made for."""
    rates = [copy.deepcopy(group["lr"]) for group in new.param_groups]
    LambdaLR(new, lambda _: 1.0)  # for its side effect on `new.step`; rates are put back
    for group, rate in zip(new.param_groups, rates, strict=True):
        if isinstance(rate, Tensor):
            group["lr"].copy_(rate)
        else:
            group["lr"] = rate
    new._opt_called = getattr(old, "_opt_called", False) or getattr(new, "_opt_called", False)


def dress(new: Any, old: Any) -> None:
    """Give a copied parameter what copying leaves behind: gradient, attributes, hooks.

    The gradient of a tensor that changes its shape is a change of its own.
    """
    if old.grad is not None and old.shape == new.shape:
        new.grad = old.grad.detach().clone()
    for key, value in vars(old).items():
        vars(new).setdefault(key, value)
    # PyTorch lists a tensor's hooks under private names only.
    for hooks, register in (
        ("_backward_hooks", "register_hook"),
        ("_post_accumulate_grad_hooks", "register_post_accumulate_grad_hook"),
    ):
        if not getattr(new, hooks, None):
            for hook in (getattr(old, hooks, None) or {}).values():
                getattr(new, register)(hook)

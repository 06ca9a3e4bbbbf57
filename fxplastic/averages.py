"""Averages of a model's weights (EMA, SWA), seen as plastic: their neurons follow the model's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor, nn

from fxplastic.errors import PlanError
from fxplastic.groups import ChannelGroup
from fxplastic.plastic import Plastic

_WRAPPERS = ("module", "_orig_mod")


class Averaged(nn.Module):
    """A module with the model's parameter names, under the model's channel groups.

    Args:
        plastic: the model.
        average: a module of the same architecture; its tensors are edited, not the model's.

    Raises:
        PlanError: it lacks a parameter of the model, or has it in another shape.
    """

    def __init__(self, plastic: Plastic, average: nn.Module) -> None:
        super().__init__()
        self._plastic = (plastic,)  # in a tuple, as a module in an attribute becomes a submodule
        self.average = average
        mine = dict(self.named_parameters(remove_duplicate=False))
        for name, parameter in plastic.named_parameters():
            shape = tuple(mine[name].shape) if name in mine else None
            if shape != tuple(parameter.shape):
                raise PlanError(
                    f"the average has parameter {name!r} in shape {shape}, the model in "
                    f"{tuple(parameter.shape)}; give one that was made from this very model"
                )

    @property
    def groups(self) -> Mapping[str, ChannelGroup]:
        """The model's groups."""
        return self._plastic[0].groups

    @property
    def fingerprint(self) -> str:
        """The model's fingerprint."""
        return self._plastic[0].fingerprint

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]:
        """Those of the average, under the model's names."""
        return self.average.named_parameters(prefix, recurse, remove_duplicate)

    def named_buffers(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Tensor]]:
        """Those of the average, under the model's names."""
        return self.average.named_buffers(prefix, recurse, remove_duplicate)


def averaged(plastic: Plastic, ema: nn.Module | Sequence[nn.Module] | None) -> tuple[Averaged, ...]:
    """Every average as one that plans fit; wrappers around the model's names are looked into.

    Raises:
        PlanError: not a module, or not of this model.
    """
    if ema is None:
        return ()
    given: Sequence[object] = ema if isinstance(ema, list | tuple) else [ema]
    found = []
    for one in given:
        if not isinstance(one, nn.Module):
            raise PlanError(
                f"ema is a {type(one).__name__}; give a module with averaged weights, such as "
                "timm.utils.ModelEmaV3 or torch.optim.swa_utils.AveragedModel"
            )
        found.append(Averaged(plastic, _inside(plastic, one)))
    return tuple(found)


def _inside(plastic: Plastic, module: nn.Module) -> nn.Module:
    """The module in wrappers that has the model's parameter names."""
    names = [name for name, _ in plastic.named_parameters()][:1]
    while True:
        mine = {name for name, _ in module.named_parameters(remove_duplicate=False)}
        inner = [getattr(module, key, None) for key in _WRAPPERS]
        wrapped = [one for one in inner if isinstance(one, nn.Module)]
        if mine.issuperset(names) or not wrapped:
            return module
        module = wrapped[0]

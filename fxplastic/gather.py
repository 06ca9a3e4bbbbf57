"""From edits of groups to edits of tensors: one index vector and one scale per tensor axis.

Several groups may lie on one axis and one tensor may be edited on several axes; everything that a
plan does to a tensor is put together here first, so that each tensor is edited exactly once.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fxplastic.axis_maps import AxisMap, applied, gathered
from fxplastic.edits import Edit
from fxplastic.errors import RewriteError
from fxplastic.groups import Site
from fxplastic.lay_axis import Known, Use, axis_map
from fxplastic.plan import Plan
from fxplastic.plastic import Plastic


@dataclass(frozen=True, eq=False)
class Recipe:
    """How one parameter or buffer is edited, and with it whatever has its shape.

    Attributes:
        name: first name of the tensor.
        tensor: the tensor itself, still as it was.
        maps: one per edited axis, on the tensor's device.
    """

    name: str
    tensor: Tensor
    maps: tuple[AxisMap, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the tensor afterwards."""
        new = {m.axis: m.index.shape[-1] for m in self.maps}
        return tuple(new.get(axis, n) for axis, n in enumerate(self.tensor.shape))

    def value(self) -> Tensor:
        """The new value: gathered on every axis, times the share on consumer axes."""
        integral = not (self.tensor.is_floating_point() or self.tensor.is_complex())
        if integral and any(m.consumed is not None for m in self.maps):
            raise RewriteError(
                f"{self.name!r} holds {self.tensor.dtype} and would have to be scaled by shares; "
                "freeze its group with plasticize(..., freeze=[...])"
            )
        return gathered(self.tensor, self.maps)

    def value_of(self, tensor: Tensor) -> Tensor:
        """The new value of a tensor that holds values of the parameter, such as an average."""
        return gathered(tensor, self.maps)

    def derivative(self, tensor: Tensor, degree: int) -> Tensor:
        """The new value of a tensor of some degree in the gradient (1: the gradient itself).

        For a function-preserving plan, the gradient of a weight is gathered on every axis and
        scaled by the share on producer axes: a consumer's weight is scaled, its gradient is not.
        """
        return self.scaled(tensor, lambda share: share.pow(degree))

    def scaled(
        self, tensor: Tensor, factor: Callable[[Tensor], Tensor], axes: Container[int] | None = None
    ) -> Tensor:
        """A tensor gathered on every axis, times a function of the share on producer axes.

        Args:
            tensor: of the parameter's shape, but of size 1 on axes that are left out.
            factor: from shares to what scales.
            axes: of these axes alone; all by default.
        """
        maps = [m for m in self.maps if axes is None or m.axis in axes]
        return applied(tensor, maps, lambda m: None if m.produced is None else factor(m.produced))


Targets = Mapping[str, Sequence[Site]]
"""Sites of each group at other widths, in the order of the group's own."""


def recipes(
    plastic: Plastic,
    plan: Plan,
    targets: Targets | None = None,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
) -> tuple[Recipe, ...]:
    """One recipe for each tensor that `plan` changes; tied tensors once.

    Args:
        plastic: the module as it is.
        plan: made for it.
        targets: where each group's neurons will lie; where they are now by default.
        shapes: new shapes of the tensors that change theirs, by name.

    Raises:
        RewriteError: the plan cannot be laid out on a tensor; nothing was changed.
    """
    named: dict[str, Tensor] = dict(plastic.named_parameters(remove_duplicate=False))
    named |= plastic.named_buffers(remove_duplicate=False)
    names: dict[int, str] = {}
    uses: dict[int, dict[int, list[Use]]] = {}
    for use in _uses(plastic, plan, targets):
        if use.site.parameter not in named:
            raise RewriteError(
                f"group {use.group!r} runs through {use.site.parameter!r}, which the model no "
                "longer has; call plasticize on the model as it is now"
            )
        key = id(named[use.site.parameter])
        names.setdefault(key, use.site.parameter)
        uses.setdefault(key, {}).setdefault(use.site.axis, []).append(use)
    shapes, known = {} if shapes is None else shapes, Known({}, {})
    found = (_recipe(n, named[n], uses[key], shapes.get(n), known) for key, n in names.items())
    return tuple(recipe for recipe in found if recipe.maps)


def _uses(plastic: Plastic, plan: Plan, targets: Targets | None) -> Iterator[Use]:
    """Every edit of every axis; where positions move, of groups that stay as they are, too."""
    for name in plan.edits if targets is None else plastic.groups:
        group, edit = plastic.groups[name], plan.edits.get(name)
        if edit is None:
            edit = Edit(
                tuple(range(group.size)), (1.0,) * group.size, group.size, group.block_count
            )
        if targets is not None or not edit.identity:
            new = group.sites if targets is None else targets[name]
            for site, target in zip(group.sites, new, strict=True):
                yield Use(name, site, target, edit)


def _recipe(
    name: str,
    tensor: Tensor,
    uses: Mapping[int, Sequence[Use]],
    shape: tuple[int, ...] | None,
    known: Known,
) -> Recipe:
    new, rows, maps = shape or tuple(tensor.shape), None, []
    device = torch.device("cpu") if tensor.is_meta else tensor.device
    for axis in sorted(uses):
        key = known.key(tensor, axis, uses[axis], new[axis] if axis < len(new) else 0)
        m = None if key is None else known.maps.get(key)
        if m is None:
            m = axis_map(name, tensor, axis, uses[axis], new, rows, known)
            rows = m.index if axis == 0 else rows
            m = m.to(device)
            if key is not None:
                known.maps[key] = m
        elif axis == 0:
            rows = m.index.cpu()
        if not _does_nothing(m, tensor.shape[axis]):
            maps.append(replace(m, axis=axis))
    return Recipe(name, tensor, tuple(maps))


def _does_nothing(m: AxisMap, length: int) -> bool:
    if m.produced is not None or m.consumed is not None or m.index.shape[-1] != length:
        return False
    return bool((m.index == torch.arange(length, device=m.index.device)).all())

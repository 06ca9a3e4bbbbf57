"""The model at other widths: predicted, laid out on meta, discovered anew and compared.

Nothing here knows which neuron copies which: that is the plan's part, and a plan decides shapes
through the groups' new sizes alone. So one result serves all plans to the same sizes.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from fxplastic.discover import grouped
from fxplastic.errors import DiscoverError, WidthError
from fxplastic.fit import fit_graphs
from fxplastic.groups import ChannelGroup, FrozenAxis
from fxplastic.labels import Run
from fxplastic.layouts import codes_of, options_of, own_graphs, with_layout
from fxplastic.leaves import Attributes, held, sizes_of
from fxplastic.ledger import AtomSite, Ledger
from fxplastic.measure import Measured, measure
from fxplastic.module import PlasticModule
from fxplastic.names_run import ledger_of
from fxplastic.scale import EXACT, Scale, scale_of
from fxplastic.sharded import require_whole
from fxplastic.ties import Ties, ties_of
from fxplastic.trace import Traced, as_it_is, dtype_of

Shape = tuple[int, ...]
ModuleT = TypeVar("ModuleT", bound=nn.Module)


@dataclass(frozen=True, eq=False)
class Resized:
    """A model at other widths, without values.

    Attributes:
        module: a plastic module with the new shapes; changed tensors are on meta.
        attributes: sizes to set in its layers, by their path.
        shapes: new shape of each tensor that changes, by its first name.
        run: a run on names of the new model.
    """

    module: PlasticModule
    attributes: Mapping[str, Attributes]
    shapes: Mapping[str, Shape]
    run: Run


@dataclass(eq=False)
class _Known:
    """What was found out about one traced model, kept as long as its graphs are."""

    state: object
    measured: Measured
    resized: dict[tuple[tuple[str, int], ...], Resized]
    run: Run | None = None
    ties: Ties | None = None


_KEPT = 4  # sizes per model whose layout is remembered
_known: WeakKeyDictionary[Traced, _Known] = WeakKeyDictionary()


def _about(plastic: PlasticModule) -> _Known:
    require_whole(plastic.named_parameters(), WidthError)
    found, state = _known.get(plastic.traced), _state_of(plastic)
    if found is None or found.state != state:
        try:
            measured = measure(plastic, as_it_is(plastic.traced, plastic))
        except DiscoverError as error:
            raise WidthError(f"the model as it is cannot be read again: {error}") from error
        found = _known[plastic.traced] = _Known(state, measured, {})
    return found


def _state_of(plastic: PlasticModule) -> object:
    """What a layout depends on: dtype, graphs' text, layers called whole, hooks, index buffers."""
    layers = [
        (path, type(layer), layer.extra_repr(), *map(id, (*before.values(), *after.values())))
        for path, layer in plastic.named_modules()
        if path and type(layer).__module__.startswith("torch.nn.")
        for before, after in [(layer._forward_pre_hooks, layer._forward_hooks)]
    ]
    buffers = [b for b in plastic.buffers() if b.ndim and not b.is_floating_point()]
    return dtype_of(plastic), codes_of(plastic), layers, [(id(b), b._version) for b in buffers]


def run_of(plastic: PlasticModule) -> Run:
    """A run on names of the model as it is."""
    about = _about(plastic)
    if about.run is None:
        about.run = Run.of(ledger_of(plastic, as_it_is(plastic.traced, plastic), witness=True))
    return about.run


def remember_run(plastic: PlasticModule, run: Run) -> None:
    """Spare `run_of` its work, for whoever has a run of the model as it is, with its witness."""
    _about(plastic).run = run


def ties_between(plastic: PlasticModule) -> Ties:
    """What new sizes of the groups have to obey."""
    about = _about(plastic)
    if about.ties is None:
        seen = (ids for one in about.measured.seen.values() for some in one.ids for ids in some)
        ledger, atoms = about.measured.ledger, about.measured.atoms
        scale = scale_of(ledger, atoms, plastic.groups, {})
        about.ties = ties_of(seen, ledger, scale, plastic.groups)
    return about.ties


def resized(plastic: PlasticModule, sizes: Mapping[str, int]) -> Resized:
    """Lay the model out for new sizes of some groups, on meta.

    Args:
        plastic: the module as it is; it is left alone.
        sizes: new number of neurons by group; groups that are not named keep theirs.

    Raises:
        WidthError: the sizes cannot be laid out; the message names group, op and source line.
    """
    changed = {n: k for n, k in sorted(sizes.items()) if plastic.groups[n].size != k}
    about, key = _about(plastic), tuple(changed.items())
    if key not in about.resized:
        while len(about.resized) >= _KEPT:
            about.resized.pop(next(iter(about.resized)))
        about.resized[key] = _lay_out(plastic, about.measured, changed)
    return about.resized[key]


def count_parameters_at(plastic: PlasticModule, sizes: Mapping[str, int]) -> int:
    """Number of elements of all parameters at other sizes, without laying anything out.

    Raises:
        WidthError: an axis cannot have them.
    """
    measured = _about(plastic).measured
    scale = scale_of(measured.ledger, measured.atoms, plastic.groups, sizes)
    shapes = _tensor_shapes(plastic, measured, scale)
    return sum(math.prod(shapes.get(n, p.shape)) for n, p in plastic.named_parameters())


def _lay_out(plastic: PlasticModule, measured: Measured, sizes: Mapping[str, int]) -> Resized:
    scale = scale_of(measured.ledger, measured.atoms, plastic.groups, sizes)
    shapes = _tensor_shapes(plastic, measured, scale)
    module = _skeleton(plastic, shapes)
    traced = own_graphs(as_it_is(module.traced, plastic))
    attributes = _leaf_sizes(plastic, shapes)
    for path, found in attributes.items():
        vars(module.get_submodule(path)).update(found)
    for path, found in fit_graphs(module, traced, measured, scale).items():
        attributes[path] = attributes.get(path, {}) | found
    try:
        run = Run.of(ledger_of(module, traced, witness=True))
    except DiscoverError as error:
        blamed = ", ".join(map(repr, sizes))
        raise WidthError(
            f"the new widths of {blamed} cannot be laid out: {error.__cause__ or error}",
            tuple(sizes),
        ) from error
    groups, frozen = _same_groups(plastic, module, run.ledger, sizes)
    return Resized(with_layout(module, traced, groups, frozen), attributes, shapes, run)


# ---------------------------------------------------------------- tensors
def _tensor_shapes(plastic: PlasticModule, measured: Measured, scale: Scale) -> dict[str, Shape]:
    """New shapes of the tensors that change."""
    shapes: dict[str, list[int]] = {}
    split = {s.parent: s for s in measured.ledger.sites if s.parent is not None}
    tensors: dict[str, Tensor] = dict(plastic.named_parameters()) | dict(plastic.named_buffers())
    for number, site in enumerate(measured.ledger.sites):
        if not site.parameter or site.parent is not None:
            continue
        length = _new_length(split.get(number, site), scale)
        if length != site.length:
            shape = shapes.setdefault(site.parameter, list(tensors[site.parameter].shape))
            shape[site.axis] = length
    return {name: tuple(shape) for name, shape in shapes.items()}


def _new_length(site: AtomSite, scale: Scale) -> int:
    """New length of an axis; that of a grouped convolution's input is the same in every group."""
    atoms = np.arange(site.base, site.base + site.size)
    sums = scale.weight[atoms].reshape(site.splits, site.length).sum(1)
    length = round(float(sums[0]))
    if np.abs(sums - length).max() > EXACT:
        names = scale.groups_in(atoms[scale.weight[atoms] != 1.0].astype(np.int32))
        raise WidthError(
            f"axis {site.axis} of {site.parameter!r} cannot have the new widths of "
            f"{', '.join(map(repr, names))}: every convolution group there needs the same whole "
            "number of channels; change the groups alike",
            names,
        )
    return length


def _skeleton(plastic: PlasticModule, shapes: Mapping[str, Shape]) -> PlasticModule:
    """A copy whose changed tensors are on meta, in their new shapes; the others are shared."""
    tensors: dict[str, Tensor] = dict(plastic.named_parameters()) | dict(plastic.named_buffers())
    new = {
        name: torch.empty(shape, dtype=tensors[name].dtype, device="meta")
        for name, shape in shapes.items()
    }
    return with_tensors(plastic, new)


def with_tensors(plastic: ModuleT, new: Mapping[str, Tensor]) -> ModuleT:
    """A deep copy of a module in which the named tensors are `new`, and all others its very own.

    Parameters stay parameters, buffers buffers; tied tensors stay tied.
    """
    memo: dict[int, Any] = {}
    for name, old in (*plastic.named_parameters(), *plastic.named_buffers()):
        if name not in new:
            memo[id(old)] = old
        elif isinstance(old, nn.Parameter):
            memo[id(old)] = nn.Parameter(new[name], requires_grad=old.requires_grad)
        else:
            memo[id(old)] = new[name]
    return copy.deepcopy(plastic, memo)


def _leaf_sizes(plastic: PlasticModule, shapes: Mapping[str, Shape]) -> dict[str, Attributes]:
    """Sizes of layers that follow from the new shapes of their own tensors."""
    found = {}
    first = {id(t): n for n, t in (*plastic.named_parameters(), *plastic.named_buffers())}
    for path, module in plastic.named_modules():
        for name in ("weight", "running_mean"):
            tensor = held(module, name) if path else None
            if isinstance(tensor, Tensor) and id(tensor) in first:
                new = shapes.get(first[id(tensor)])
                sizes = sizes_of(module, tuple(tensor.shape), new)
                if sizes:
                    found[path] = sizes
                break
    return found


# ---------------------------------------------------------------- the same groups again
def _same_groups(
    plastic: PlasticModule, module: PlasticModule, ledger: Ledger, sizes: Mapping[str, int]
) -> tuple[dict[str, ChannelGroup], tuple[FrozenAxis, ...]]:
    """Groups of the new model: those of the old one, in the sizes asked for, and no others."""
    found = grouped(module, ledger, options_of(plastic))
    groups: dict[str, ChannelGroup] = {}
    for name, old in plastic.groups.items():
        new = found.groups.get(name)
        size = sizes.get(name, old.size)
        if new is None or _look(new) != _look(old) or new.size != size:
            raise _other_group(name, new, size, sizes)
        groups[name] = replace(new, coupled=old.coupled)
    # Groups that the old module did without (verification refuted them) keep their reasons.
    others = [g for name, g in found.groups.items() if name not in plastic.groups]
    axes = {(s.parameter, s.axis) for g in others for s in g.sites}
    kept = [r for r in plastic.frozen if (r.parameter, r.axis) in axes and r not in found.frozen]
    return groups, (*found.frozen, *kept)


def _look(group: ChannelGroup) -> tuple[object, ...]:
    """All of a group that other widths leave alone."""
    sites = tuple(
        (s.parameter, s.axis, s.role, s.positions.shape[1], s.rows is None, s.aliases)
        for s in group.sites
    )
    return group.exact, group.block_count, sites


def _other_group(
    name: str, new: ChannelGroup | None, size: int, sizes: Mapping[str, int]
) -> WidthError:
    if new is None:
        what = "it is no group of interchangeable neurons any more"
    elif new.size != size:
        what = f"it would have {new.size} neurons, not {size}"
    else:
        what = "it would run through its parameters in another way"
    blamed = (name,) if name in sizes else tuple(sizes)
    return WidthError(
        f"the new widths cannot be laid out: read anew at these widths, group {name!r} is not "
        f"what it was ({what}): a size or an index that is fixed in the model's code depends on "
        f"the old widths. Leave {', '.join(map(repr, blamed))} out of the plan, or change groups "
        "that lie on the same tensors alike",
        blamed,
    )

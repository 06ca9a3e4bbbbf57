"""`rewrite` at other widths: new tensors, new graphs, and the proof that they are the old ones'."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fxplastic.errors import WidthError
from fxplastic.gather import Recipe, recipes
from fxplastic.groups import Site
from fxplastic.labels import Origin, check_labels
from fxplastic.layouts import in_layout_of
from fxplastic.module import PlasticModule
from fxplastic.names_run import ledger_of
from fxplastic.plan import Plan
from fxplastic.resize import Resized, resized, run_of, with_tensors


def new_sizes(plan: Plan) -> dict[str, int]:
    """The number of neurons that each group of `plan` will have."""
    return {name: len(edit.take) for name, edit in plan.edits.items()}


def lay_out(plastic: PlasticModule, plan: Plan) -> tuple[Resized, tuple[Recipe, ...]]:
    """The model at the plan's widths, on meta, and how each tensor is made.

    Raises:
        WidthError: the widths cannot be laid out; the message names group, op and source line.
    """
    found = resized(plastic, new_sizes(plan))
    targets = {name: found.module.groups[name].sites for name in plastic.groups}
    made = recipes(plastic, plan, targets, found.shapes)
    shapes = {recipe.name: recipe.shape for recipe in made}
    for name, shape in found.shapes.items():
        if shapes.get(name) != shape:
            raise WidthError(
                f"{name!r} would have shape {shapes.get(name)}, and needs {shape}; leave "
                f"{', '.join(map(repr, plan.edits))} out of the plan",
                tuple(plan.edits),
            )
    origins = _origins(plan, targets, made)
    changed = [n for n, edit in plan.edits.items() if not edit.keeps_width]
    check_labels(
        run_of(plastic),
        found.run,
        origins,
        changed,
        lambda origin: ledger_of(found.module, found.module.traced, origin=origin),
    )
    return found, made


def _origins(
    plan: Plan,
    targets: Mapping[str, Sequence[Site]],
    made: Sequence[Recipe],
) -> dict[tuple[str, int], Origin]:
    """Where the positions of every edited axis come from, and which copies they are."""
    origins = {
        (recipe.name, m.axis): Origin(m.index.cpu(), torch.zeros_like(m.index, device="cpu"))
        for recipe in made
        for m in recipe.maps
    }
    for name, edit in plan.edits.items():
        rank = {new: k for copies in edit.copies.values() for k, new in enumerate(copies)}
        number = torch.tensor([rank[j] for j in range(len(edit.take))])
        for site in targets[name]:
            origin = origins.get((site.parameter, site.axis))
            if origin is None:
                continue
            if origin.index.ndim == 1:
                origin.copy[site.positions] = number[:, None].expand_as(site.positions)
            elif site.rows is None:
                origin.copy[:, site.positions] = number[:, None].expand_as(site.positions)
            else:
                cells = (site.rows[:, :, None], site.positions[:, None, :])
                origin.copy[cells] = number[:, None, None].expand_as(origin.copy[cells])
    return origins


def resized_module(
    plastic: PlasticModule, found: Resized, new: Mapping[str, Tensor]
) -> PlasticModule:
    """A deep copy of `plastic` in the layout found, with the `new` tensors in place."""
    others = (*plastic.named_parameters(), *plastic.named_buffers())
    kept = {name: t.detach().clone() for name, t in others if name not in new}
    module = with_tensors(plastic, kept | dict(new))
    for path, sizes in found.attributes.items():
        vars(module.get_submodule(path)).update(sizes)
    return in_layout_of(module, found.module)

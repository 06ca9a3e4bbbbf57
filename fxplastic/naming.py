"""Names of groups: stable under changes of width, and readable."""

from __future__ import annotations

from collections.abc import Sequence

from fxplastic.groups import Site


def _label(site: Site) -> str:
    return f"{site.parameter}:{site.axis}"


def name_groups(found: Sequence[Sequence[Site]]) -> list[str]:
    """A name for each group of sites: its first producer.

    Where several groups share that one, the first site that tells a group from the others is
    added, and a number where none does.

    Sizes and positions play no part, so that a model of other widths has the same names.
    """
    heads = [_label(next((s for s in sites if s.role == "producer"), sites[0])) for sites in found]
    names = []
    for i, (head, sites) in enumerate(zip(heads, found, strict=True)):
        rivals = [j for j, h in enumerate(heads) if h == head and j != i]
        other = {_label(s) for j in rivals for s in found[j]}
        own = next((_label(s) for s in sites if _label(s) not in other), None)
        names.append(f"{head}+{own}" if rivals and own else head)
    return [_numbered(names, i) for i in range(len(names))]


def _numbered(names: Sequence[str], index: int) -> str:
    """Groups on the very same sites are told apart by their order along the first one."""
    twins = [i for i, n in enumerate(names) if n == names[index]]
    return names[index] if len(twins) == 1 else f"{names[index]}/{twins.index(index) + 1}"

"""The values that discovery makes: sites, channel groups and frozen axes.

A *neuron* is one index of a channel dependency group (Fang et al., DepGraph, 2023): the
positions, over all parameters and buffers, that have to be copied or removed together. Neurons
that run through the same parameters in the same way form a `ChannelGroup`; a `Site` is one axis
of one parameter in it. Everything here is immutable; nothing here knows how groups are found.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from fxplastic.html_tables import html_table

Role = Literal["producer", "consumer"]


@dataclass(frozen=True, eq=False)
class Site:
    """One axis of one parameter or buffer, as a group's neurons run through it.

    Attributes:
        parameter: first name of the tensor in `named_parameters()` or `named_buffers()`.
        axis: the axis that the neurons lie along.
        role: ``"producer"`` (copied as it is) or ``"consumer"`` (copied, times the share).
        positions: int64 ``[size, k]`` on the CPU; row j holds the k positions of neuron j.
        rows: ``None``, or int64 ``[size, r]`` on the CPU: neuron j's positions apply to these rows
            of axis 0 only (the input axis of a grouped convolution).
        aliases: further names of the same tensor (tied weights).
    """

    parameter: str
    axis: int
    role: Role
    positions: Tensor
    rows: Tensor | None = None
    aliases: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.parameter}:{self.axis} ({self.role})"


@dataclass(frozen=True, eq=False)
class ChannelGroup:
    """Neurons that are interchangeable inside their block.

    Attributes:
        name: ``"<parameter>:<axis>"`` of the first producer site, with a suffix where several
            groups share that site; made neither from sizes nor from a counter over the model.
        size: number of neurons.
        exact: duplicating with shares that sum to one leaves the model's function as it was, and
            pruning equals masking the consumers.
        sites: producers and consumers, in the order of the model's parameters, then buffers.
        blocks: one int per neuron, ascending and contiguous; blocks are of equal size. A neuron
            may be copied over neurons of its own block only (same head, same convolution group).
        coupled: names of groups whose widths are tied to this one's.
    """

    name: str
    size: int
    exact: bool
    sites: tuple[Site, ...]
    blocks: tuple[int, ...]
    coupled: tuple[str, ...] = ()

    @property
    def block_count(self) -> int:
        """Number of blocks."""
        return self.blocks[-1] + 1 if self.blocks else 0

    @property
    def block_size(self) -> int:
        """Number of neurons in each block."""
        return self.size // max(self.block_count, 1)

    @property
    def producers(self) -> tuple[Site, ...]:
        """Sites whose slices are copied as they are."""
        return tuple(s for s in self.sites if s.role == "producer")

    @property
    def consumers(self) -> tuple[Site, ...]:
        """Sites whose slices are scaled by the share of the copy."""
        return tuple(s for s in self.sites if s.role == "consumer")

    def _repr_html_(self) -> str:
        """A table of the sites, for notebooks."""
        kind = "exact" if self.exact else "not exact"
        caption = f"{self.name}: {self.size} neurons, {self.block_count} blocks, {kind}"
        rows = [(s.parameter, s.axis, s.role, s.positions.shape[1]) for s in self.sites]
        return html_table(caption, ("parameter", "axis", "role", "positions per neuron"), rows)


@dataclass(frozen=True)
class FrozenAxis:
    """An axis, or a part of it, that no plan may touch, and why.

    Attributes:
        parameter: name of the parameter or buffer.
        axis: the axis.
        reason: what the pass did not understand or what forbids it, and what can be done.
        node: name of the FX node where it was decided (empty where no node was involved).
        source: ``"file:line in function"`` of the user's code (empty where unknown).
        positions: how many positions of the axis are frozen for this reason.
    """

    parameter: str
    axis: int
    reason: str
    node: str
    source: str
    positions: int


@dataclass(frozen=True)
class Options:
    """What discovery was asked to open and to leave alone (see `fxplastic.plasticize`)."""

    attention: Literal["value"] | None = None
    approximate: bool = False
    freeze: tuple[str, ...] = ()


def fingerprint(groups: Mapping[str, ChannelGroup]) -> str:
    """SHA-256 over names, sizes, blocks and sites of `groups`.

    Neither weights nor positions take part, so that the fingerprint of a model of other widths is
    known beforehand: see `resized_fingerprint`.
    """
    return resized_fingerprint(groups, {})


def resized_fingerprint(groups: Mapping[str, ChannelGroup], sizes: Mapping[str, int]) -> str:
    """The `fingerprint` that `groups` will have with other `sizes`, by name."""
    digest = hashlib.sha256()
    for name in sorted(groups):
        group = groups[name]
        size = sizes.get(name, group.size)
        digest.update(repr((name, size, group.exact, group.block_count)).encode())
        for site in group.sites:
            slots, by_row = site.positions.shape[1], site.rows is not None
            where = (site.parameter, site.axis, site.role, slots, by_row, site.aliases)
            digest.update(repr(where).encode())
    return digest.hexdigest()

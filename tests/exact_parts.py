"""The parts that exactness is measured with: random models, outputs, plans and masking.

Nothing here uses the planner or the rewrite, so that a bug there cannot hide itself.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from fxplastic.groups import ChannelGroup
from tests.exact_models import ModelSpec
from tests.randomise import randomise

MODES = {"eval": False, "train": True}

State = dict[str, Tensor]


# --- models -----------------------------------------------------------------------------------


def prepared(spec: ModelSpec, size: int, dropout: bool) -> nn.Module:
    """The spec's model with seeded, randomised weights; see `ModelSpec.build` for `dropout`."""
    torch.manual_seed(0)
    return randomise(spec.build(size, dropout), seed=1)


def tensors(model: nn.Module) -> State:
    """All parameters and buffers by name, persistent or not."""
    return dict(model.named_parameters()) | dict(model.named_buffers())


def snapshot(model: nn.Module) -> State:
    return {name: tensor.detach().clone() for name, tensor in tensors(model).items()}


def restore(model: nn.Module, state: State) -> None:
    with torch.no_grad():
        for name, tensor in tensors(model).items():
            tensor.copy_(state[name])


def same_bits(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def same_leaves(a: object, b: object) -> bool:
    """Whether two trees (an optimizer's state, say) have the same structure and bits."""
    (ours, shape), (theirs, other_shape) = tree_flatten(a), tree_flatten(b)
    return shape == other_shape and all(
        torch.equal(x, y) if isinstance(x, Tensor) else x == y
        for x, y in zip(ours, theirs, strict=True)
    )


# --- outputs ----------------------------------------------------------------------------------


def outputs(model: nn.Module, images: Tensor, training: bool) -> list[Tensor]:
    """All output tensors under a fixed seed, in the mode given."""
    model.train(training)
    torch.manual_seed(7)
    with torch.no_grad():
        leaves, _ = tree_flatten(model(images))
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


def equal_outputs(a: nn.Module, b: nn.Module, images: Tensor) -> bool:
    """Whether outputs agree bit for bit in eval and in train mode, and buffers afterwards too."""
    for training in MODES.values():
        ours, theirs = outputs(a, images, training), outputs(b, images, training)
        if not ours or len(ours) != len(theirs):
            return False
        if not all(torch.equal(x, y) for x, y in zip(ours, theirs, strict=True)):
            return False
    return same_bits(dict(a.named_buffers()), dict(b.named_buffers()))


def equal_outputs_shared(model: nn.Module, plastic: nn.Module, images: Tensor) -> bool:
    """As `equal_outputs`, for two modules that share their buffers."""
    state = snapshot(model)
    results: list[list[Tensor]] = []
    for module in (model, plastic):
        restore(model, state)
        leaves = [leaf for mode in MODES.values() for leaf in outputs(module, images, mode)]
        results.append([*leaves, *snapshot(module).values()])
    return all(torch.equal(x, y) for x, y in zip(*results, strict=True))


def distance(ours: list[Tensor], theirs: list[Tensor]) -> float:
    """Largest difference of any output, relative to that output's largest entry."""
    assert len(ours) == len(theirs) > 0
    pairs = zip(ours, theirs, strict=True)
    return max(float((x - y).abs().max() / y.abs().max()) for x, y in pairs)


# --- plans ------------------------------------------------------------------------------------


def turnover(
    groups: Mapping[str, ChannelGroup], kind: str, seed: int, ratio: float = 0.3
) -> tuple[dict[str, list[int]], dict[str, list[float]], dict[str, list[int]]]:
    """Takes, shares and pruned neurons that turn over `ratio` of every block of every exact group.

    Pruned slots are filled with copies of survivors drawn from the same block, with replacement,
    so that some survivors have several copies.
    """
    draw = torch.Generator().manual_seed(seed)
    takes, shares, pruned = {}, {}, {}
    for name, group in groups.items():
        if not group.exact or group.block_size < 2:
            continue
        count = min(max(1, int(ratio * group.block_size)), group.block_size // 2)
        take, gone = list(range(group.size)), []
        for start in range(0, group.size, group.block_size):
            order = (torch.randperm(group.block_size, generator=draw) + start).tolist()
            slots, survivors = order[:count], order[count:]
            picks = torch.randint(len(survivors), (count,), generator=draw).tolist()
            for slot, pick in zip(slots, picks, strict=True):
                take[slot] = survivors[pick]
            gone += slots
        takes[name], pruned[name] = take, sorted(gone)
        shares[name] = _shares(take, kind, draw)
    return takes, shares, pruned


def _shares(take: list[int], kind: str, draw: torch.Generator) -> list[float]:
    """Shares that sum to one over the copies of each source, never even where there are two."""
    copies: dict[int, list[int]] = {}
    for slot, source in enumerate(take):
        copies.setdefault(source, []).append(slot)
    shares = [1.0] * len(take)
    for slots in copies.values():
        parts = torch.rand(len(slots), generator=draw, dtype=torch.float64)
        # uneven: all positive; signed: all negative but the last
        parts = 0.1 + parts if kind == "uneven" else -(0.2 + parts)
        if kind == "uneven":
            parts /= parts.sum()
        parts[-1] = 1 - parts[:-1].sum()
        for slot, part in zip(slots, parts.tolist(), strict=True):
            shares[slot] = part
    return shares


def mask_(
    model: nn.Module, groups: Mapping[str, ChannelGroup], pruned: dict[str, list[int]]
) -> None:
    """Zero the consumer slices of the pruned neurons: what pruning means, without a rewrite."""
    named = tensors(model)
    with torch.no_grad():
        for name, neurons in pruned.items():
            for site in groups[name].consumers:
                tensor, positions = named[site.parameter], site.positions[neurons]
                if site.rows is None:
                    tensor.index_fill_(site.axis, positions.flatten(), 0.0)
                else:
                    rows = site.rows[neurons][:, :, None]
                    tensor.movedim(site.axis, 1)[rows, positions[:, None, :]] = 0.0

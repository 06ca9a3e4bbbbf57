"""Small models whose channel groups are written by hand: plans and rewrites are tested alone."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fxplastic.groups import ChannelGroup, Site, fingerprint
from fxplastic.plan import Plan


class HandMade(nn.Module):
    """A module that knows its groups, as a plastic module does."""

    groups: Mapping[str, ChannelGroup] = {}

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.groups)


def site(
    parameter: str, axis: int, role: str, positions: Tensor, rows: Tensor | None = None
) -> Site:
    positions = positions if positions.ndim == 2 else positions[:, None]
    return Site(parameter, axis, role, positions, rows)


def group(size: int, *sites: Site, blocks: int = 1) -> ChannelGroup:
    labels = tuple(i * blocks // size for i in range(size))
    return ChannelGroup(f"{sites[0].parameter}:{sites[0].axis}", size, True, sites, labels)


def named(*groups: ChannelGroup) -> dict[str, ChannelGroup]:
    return {g.name: g for g in groups}


class ConvNet(HandMade):
    """conv, norm, grouped conv, norm, flatten, linear: blocks, rows and inner slots."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(6)
        self.conv2 = nn.Conv2d(6, 8, 3, groups=2, bias=False)
        self.bn2 = nn.BatchNorm2d(8)
        self.fc = nn.Linear(8 * 4, 5)
        one, two = torch.arange(6), torch.arange(8)
        norm = ("weight", "bias", "running_mean", "running_var")
        rows = (one // 3)[:, None] * 4 + torch.arange(4)
        inner = two[:, None] * 4 + torch.arange(4)
        self.groups = named(
            group(
                6,
                site("conv1.weight", 0, "producer", one),
                *(site(f"bn1.{key}", 0, "producer", one) for key in norm),
                site("conv2.weight", 1, "consumer", one % 3, rows),
                blocks=2,
            ),
            group(
                8,
                site("conv2.weight", 0, "producer", two),
                *(site(f"bn2.{key}", 0, "producer", two) for key in norm),
                site("fc.weight", 1, "consumer", inner),
                blocks=2,
            ),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        return self.fc(torch.relu(self.bn2(self.conv2(x))).flatten(1))


class Branches(HandMade):
    """Two hidden layers side by side: two groups lie on one axis of the last weight."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(4, 6), nn.Linear(4, 5)
        self.fc = nn.Linear(11, 3)
        a, b = torch.arange(6), torch.arange(5)
        self.groups = named(
            group(
                6,
                site("left.weight", 0, "producer", a),
                site("left.bias", 0, "producer", a),
                site("fc.weight", 1, "consumer", a),
            ),
            group(
                5,
                site("right.weight", 0, "producer", b),
                site("right.bias", 0, "producer", b),
                site("fc.weight", 1, "consumer", b + 6),
            ),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.relu(torch.cat([self.left(x), self.right(x)], 1)))


class Tied(HandMade):
    """One layer under two names, its weight producer on axis 0 and consumer on axis 1."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.shared, self.fc = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.again = nn.Linear(6, 6)
        self.again.weight = self.shared.weight
        self.again.bias = self.shared.bias
        i = torch.arange(6)
        self.groups = named(
            group(
                6,
                site("first.weight", 0, "producer", i),
                site("first.bias", 0, "producer", i),
                site("shared.weight", 0, "producer", i),
                site("shared.weight", 1, "consumer", i),
                site("shared.bias", 0, "producer", i),
                site("again.weight", 0, "producer", i),  # the same tensor, by its other name
                site("again.weight", 1, "consumer", i),
                site("fc.weight", 1, "consumer", i),
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.shared(torch.relu(self.first(x))))
        return self.fc(torch.tanh(self.again(x)))


class Transposed(HandMade):
    """A grouped transposed convolution: a producer whose rows differ."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(4, 6, 2, groups=2)
        self.last = nn.Conv2d(6, 2, 1)
        i = torch.arange(6)
        rows = (i // 3)[:, None] * 2 + torch.arange(2)
        self.groups = named(
            group(
                6,
                site("up.weight", 1, "producer", i % 3, rows),
                site("up.bias", 0, "producer", i),
                site("last.weight", 1, "consumer", i),
                blocks=2,
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.up(x)))


class Chain(HandMade):
    """Groups of one size: alike in all but the axis, the edit, or the length that they lie on."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.shift = nn.Parameter(torch.zeros(4, 6)), nn.Parameter(torch.zeros(6))
        self.second, self.third, self.wide = nn.Linear(6, 6), nn.Linear(6, 3), nn.Linear(10, 3)
        i = torch.arange(6)
        self.groups = named(
            group(
                6,
                site("first", 1, "producer", i),
                site("shift", 0, "producer", i),
                site("second.weight", 1, "consumer", i),
                site("wide.weight", 1, "consumer", i),
            ),
            group(
                6,
                site("second.weight", 0, "producer", i),
                site("second.bias", 0, "producer", i),
                site("third.weight", 1, "consumer", i),
            ),
        )

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(x @ self.first + self.shift)
        return self.third(torch.relu(self.second(h))) + self.wide(torch.cat([h, x], 1))


class GroupedTwice(HandMade):
    """Two grouped convolutions take the same neurons up, with other rows."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 1)
        self.left, self.right = nn.Conv2d(6, 8, 1, groups=2), nn.Conv2d(6, 4, 1, groups=2)
        i = torch.arange(6)

        def rows(count: int) -> Tensor:
            return (i // 3)[:, None] * count + torch.arange(count)

        self.groups = named(
            group(
                6,
                site("first.weight", 0, "producer", i),
                site("first.bias", 0, "producer", i),
                site("left.weight", 1, "consumer", i % 3, rows(4)),
                site("right.weight", 1, "consumer", i % 3, rows(2)),
                blocks=2,
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.first(x))
        return torch.cat([self.left(h), self.right(h)], 1)


INPUTS = {
    ConvNet: (7, 3, 4, 4),
    Branches: (7, 4),
    Tied: (7, 4),
    Transposed: (3, 4, 5, 5),
    Chain: (7, 4),
    GroupedTwice: (3, 3, 2, 2),
}
MODELS = tuple(INPUTS)


def build(kind: type[HandMade], seed: int = 0) -> HandMade:
    """The model in float64, with every parameter and statistic drawn at random."""
    torch.manual_seed(seed)
    model = kind().double()
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.copy_(torch.randn_like(tensor).mul(0.3).add(0.2 * tensor))
        for name, buffer in model.named_buffers():
            if name.endswith("running_var"):
                buffer.copy_(torch.rand_like(buffer) + 0.5)
    return model


def images(kind: type[HandMade], seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(INPUTS[kind], dtype=torch.float64, generator=generator)


def train_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, *, step: bool = True
) -> None:
    """Backward of a loss that every output takes part in, and a step."""
    optimizer.zero_grad()
    outputs = model(x)
    weights = torch.linspace(0.5, 1.5, outputs.numel(), dtype=outputs.dtype)
    (outputs.flatten().square() * weights).mean().backward()
    if step:
        optimizer.step()


def mask_(model: HandMade, plan: Plan) -> None:
    """Zero the consumer slices of the neurons that `plan` prunes, position by position."""
    tensors = dict(model.named_parameters(remove_duplicate=False))
    with torch.no_grad():
        for name, edit in plan.edits.items():
            for place in model.groups[name].consumers:
                weight = tensors[place.parameter].movedim(place.axis, -1)
                for neuron in edit.pruned:
                    for position in place.positions[neuron].tolist():
                        if place.rows is None:
                            weight[..., position] = 0
                        else:
                            weight[place.rows[neuron], ..., position] = 0


def bits(model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> dict[str, bytes]:
    """Everything that a failed rewrite must leave alone, as bytes."""
    found: dict[str, Tensor] = dict(model.named_parameters()) | dict(model.named_buffers())
    found |= {f"{k}.grad": p.grad for k, p in model.named_parameters() if p.grad is not None}
    if optimizer is not None:
        for name, parameter in model.named_parameters():
            for key, value in optimizer.state.get(parameter, {}).items():
                if isinstance(value, Tensor):
                    found[f"{name}/{key}"] = value
    return {
        key: value.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        for key, value in found.items()
    }

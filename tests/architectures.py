"""Random architectures, valid by construction, for property tests.

The builder keeps the running shape, and only moves that fit it are drawn, so that every draw
builds and runs.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

from tests.programs import Program, Step

ACTIVATIONS = ("relu", "gelu", "silu", "tanh", "sigmoid", "hardswish", "softplus")
WIDTHS = (4, 6, 8, 12)
LARGEST = 16


@dataclass
class Builder:
    """The program so far and the running shape, ``(C, H, W)``, ``(N, C)`` or ``(C,)``."""

    draw: Any
    shape: tuple[int, ...]
    layers: list[tuple[str, tuple[Any, ...]]] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    ties: list[tuple[str, str]] = field(default_factory=list)

    @property
    def width(self) -> int:
        return self.shape[-1] if len(self.shape) == 2 else self.shape[0]

    @property
    def axis(self) -> int:
        """The axis of the channels, batch included."""
        return 1 if len(self.shape) == 3 else -1

    def widen(self, new: int) -> None:
        """Sets the number of channels of the running shape."""
        self.shape = (new, *self.shape[1:]) if len(self.shape) == 3 else (*self.shape[:-1], new)

    def conv(self, c: int, new: int, kernel: int = 1, groups: int = 1) -> str:
        return self.layer("conv", c, new, kernel, groups, True)

    def pick(self, *choices: Any) -> Any:
        return self.draw(st.sampled_from(choices))

    def layer(self, kind: str, *options: Any) -> str:
        """A new layer, or (one time in four, where one fits) an old one again."""
        same = [n for n, made in enumerate(self.layers) if made == (kind, options)]
        if same and self.pick(False, False, False, True):
            return f"l{self.pick(*same)}"
        self.layers.append((kind, options))
        name = f"l{len(self.layers) - 1}"
        if same and kind in ("linear", "conv") and self.pick(False, False, True):
            self.ties.append((name, f"l{same[0]}"))
        return name

    def step(self, kind: str, layers: tuple[str, ...] = (), *options: Any) -> None:
        self.steps.append(Step(kind, layers, options))

    def activation(self) -> str:
        return str(self.pick(*ACTIVATIONS))

    def divisor(self, *numbers: int) -> int:
        """A number above one, where there is one, that divides all of `numbers`."""
        return int(self.pick(*([n for n in (2, 3, 4) if not any(m % n for m in numbers)] or [1])))


@dataclass(frozen=True)
class Move:
    """Something to append to a program: when it fits the running shape, and how it is made."""

    fits: Callable[[Builder], bool]
    make: Callable[[Builder], None]


MOVES: dict[str, Move] = {}


def move(
    *ranks: int, when: Callable[[Builder], bool] = lambda _: True
) -> Callable[[Callable[[Builder], None]], Callable[[Builder], None]]:
    """Registers a function as a move on values with so many axes (3 maps, 2 tokens, 1 rows)."""

    def register(make: Callable[[Builder], None]) -> Callable[[Builder], None]:
        MOVES[make.__name__] = Move(lambda b: len(b.shape) in ranks and when(b), make)
        return make

    return register


def single(name: str, rank: int, layer: Callable[[Builder], tuple[Any, ...]]) -> None:
    """Registers a move that appends one layer and keeps the shape."""
    MOVES[name] = Move(
        lambda b: len(b.shape) == rank, lambda b: b.step("layer", (b.layer(*layer(b)),))
    )


def linear(b: Builder, new: int) -> str:
    """A layer from all channels to `new` channels, on any kind of value."""
    return b.conv(b.width, new) if len(b.shape) == 3 else b.layer("linear", b.width, new, True)


single("batch_norm", 3, lambda b: ("batch_norm", b.width))
single("instance_norm", 3, lambda b: ("instance_norm", b.width))
single("group_norm", 3, lambda b: ("group_norm", b.divisor(b.width), b.width))
single("group_norm_of_each", 3, lambda b: ("group_norm", b.width, b.width))
single("standardised", 3, lambda b: ("standardised", b.width, b.width))
single("scale_of_map", 3, lambda b: ("scale", (b.width, 1, 1)))
single("position_in_map", 3, lambda b: ("position", b.shape))
single("layer_norm", 2, lambda b: ("layer_norm", b.width))
single("rms_norm", 2, lambda b: ("rms_norm", b.width))
single("response_norm", 2, lambda b: ("response_norm", b.width))
single("scale_of_tokens", 2, lambda b: ("scale", (b.width,)))
single("position_in_tokens", 2, lambda b: ("position", b.shape))
single("embedding", 2, lambda b: ("embedding", b.shape[0], b.width))
single("batch_norm_of_rows", 1, lambda b: ("batch_norm_of_rows", b.width))


# --- maps -------------------------------------------------------------------------------------


@move(3)
def conv(b: Builder) -> None:
    new = b.pick(*WIDTHS)
    groups = b.pick(1, 1, b.divisor(b.width, new))
    b.step("layer", (b.conv(b.width, new, b.pick(1, 3), groups),))
    b.widen(new)


@move(3)
def depthwise(b: Builder) -> None:
    times = b.pick(1, 2) if 2 * b.width <= LARGEST else 1
    b.step("layer", (b.conv(b.width, times * b.width, 3, b.width),))
    b.widen(times * b.width)


@move(3, when=lambda b: b.shape[1] % 2 == 0)
def conv_in_depth(b: Builder) -> None:
    new = b.pick(*WIDTHS)
    b.step("in_depth", (b.layer("conv3d", b.width, new, b.pick(1, b.divisor(b.width, new))),))
    b.widen(new)


@move(2)
def conv_of_tokens(b: Builder) -> None:
    new = b.pick(*WIDTHS)
    kind, groups = b.pick("conv1d", "transposed1d"), b.pick(1, b.divisor(b.width, new))
    options = (b.width, new, groups) if kind == "conv1d" else (b.width, new)
    b.step("along_tokens", (b.layer(kind, *options),))
    b.widen(new)


@move(3, when=lambda b: b.shape[1] <= 4)
def transposed(b: Builder) -> None:
    new = b.pick(*WIDTHS)
    b.step("layer", (b.layer("transposed", b.width, new, b.pick(1, b.divisor(b.width, new))),))
    b.shape = (new, 2 * b.shape[1], 2 * b.shape[2])


@move(3)
def bottleneck(b: Builder) -> None:
    inner = b.pick(*WIDTHS)
    down = b.conv(b.width, inner, b.pick(1, 3))
    norm = b.layer(b.pick("batch_norm", "instance_norm", "identity"), inner)
    up = b.conv(inner, b.width)
    b.step("bottleneck", (down, norm, up), b.activation(), b.pick(0.0, 0.5))


@move(3)
def gate(b: Builder) -> None:
    layers = (b.conv(b.width, b.width, b.pick(1, 3)), b.conv(b.width, b.width))
    b.step("gate", layers, b.activation())


@move(3, when=lambda b: 2 * b.width <= LARGEST)
def concat(b: Builder) -> None:
    b.step("concat", (b.conv(b.width, b.width, 3),), b.activation())
    b.widen(2 * b.width)


@move(3)
def squeeze_excite(b: Builder) -> None:
    b.step("squeeze_excite", (b.conv(b.width, 4), b.conv(4, b.width)), b.activation())


@move(3, when=lambda b: b.shape[1] <= 4)
def pixel_shuffle(b: Builder) -> None:
    new = b.pick(4, 6)
    b.step("pixel_shuffle", (b.conv(b.width, 4 * new),))
    b.shape = (new, 2 * b.shape[1], 2 * b.shape[2])


@move(3, when=lambda b: b.shape[1] in (4, 6, 8) and b.width <= 6)
def pixel_unshuffle(b: Builder) -> None:
    b.step("pixel_unshuffle")
    b.shape = (4 * b.width, b.shape[1] // 2, b.shape[2] // 2)


@move(3, when=lambda b: b.shape[1] % 2 == 0)
def windows(b: Builder) -> None:
    b.step("windows", (b.layer("linear", b.width, b.width, True),), b.activation())


@move(3, when=lambda b: b.shape[1] in (4, 6, 8))
def pool(b: Builder) -> None:
    b.step("pool", (), b.pick("avg", "max"))
    b.shape = (b.width, b.shape[1] // 2, b.shape[2] // 2)


@move(3, when=lambda b: b.shape[1] <= 4)
def upsample(b: Builder) -> None:
    b.step("upsample", (), b.pick("nearest", "bilinear"))
    b.shape = (b.width, 2 * b.shape[1], 2 * b.shape[2])


@move(3)
def to_tokens(b: Builder) -> None:
    b.step("to_tokens")
    b.shape = (b.shape[1] * b.shape[2], b.width)


# --- tokens -----------------------------------------------------------------------------------


@move(2, when=lambda b: b.shape[0] < 40)
def class_token(b: Builder) -> None:
    b.step("layer", (b.layer("class_token", b.width),))
    b.shape = (b.shape[0] + 1, b.width)


@move(2, when=lambda b: b.shape[0] < 40)
def mix_tokens(b: Builder) -> None:
    n = b.shape[0]
    b.step("mix_tokens", (b.layer("linear", n, 6, True), b.layer("linear", 6, n, True)),
           b.activation())  # fmt: skip


@move(2)
def attention(b: Builder) -> None:
    layers = tuple(b.layer("linear", b.width, b.width, b.pick(True, False)) for _ in range(4))
    b.step(b.pick("attention", "attention_by_hand"), layers, b.divisor(b.width))


@move(2)
def fused_attention(b: Builder) -> None:
    c = b.width
    layers = (b.layer("linear", c, 3 * c, True), b.layer("linear", c, c, True))
    b.step("fused_attention", layers, b.divisor(c))


@move(1, 2)
def mlp(b: Builder) -> None:
    c, inner = b.width, b.pick(*WIDTHS)
    layers = (b.layer("linear", c, inner, True), b.layer("linear", inner, c, True))
    b.step("mlp", layers, b.activation(), b.pick(0.0, 0.5))


# --- any value --------------------------------------------------------------------------------


@move(2, 3)
def to_row(b: Builder) -> None:
    size = 1
    for length in b.shape:
        size *= length
    means = ("mean_of_map",) if len(b.shape) == 3 else ("mean_of_tokens", "first_token")
    kind = b.pick("flatten", *means) if size <= 200 else b.pick(*means)
    b.step(kind)
    b.shape = (size if kind == "flatten" else b.width,)


@move(1, when=lambda b: b.width % 4 == 0 and b.width >= 16)
def to_map(b: Builder) -> None:
    b.step("to_map")
    b.shape = (b.width // 4, 2, 2)


@move(1, 2, 3)
def activation(b: Builder) -> None:
    b.step("activation", (), b.activation())


@move(1, 2, 3)
def project(b: Builder) -> None:
    new = b.pick(*WIDTHS)
    b.step("layer", (linear(b, new),))
    b.widen(new)


@move(1, 2, 3, when=lambda b: b.width % 2 == 0 and b.width >= 8)
def glu(b: Builder) -> None:
    b.step("glu", (), b.axis, b.activation())
    b.widen(b.width // 2)


@move(1, 2, 3)
def widen_glu(b: Builder) -> None:
    half = b.pick(4, 6)
    b.step("layer", (linear(b, 2 * half),))
    b.step("glu", (), b.axis, b.activation())
    b.widen(half)


@move(1, 2, 3)
def split(b: Builder) -> None:
    first = b.pick(b.width // 2, b.width // 2 - 1)
    b.step("split", (), b.axis, first, b.activation(), b.activation())


@move(1, 2, 3, when=lambda b: 2 * b.width <= LARGEST)
def with_itself(b: Builder) -> None:
    b.step("with_itself", (), b.axis, b.activation())
    b.widen(2 * b.width)


@move(1, 2, 3, when=lambda b: any(b.width % n == 0 for n in (2, 3, 4)))
def shuffle(b: Builder) -> None:
    b.step("shuffle", (), b.axis, b.divisor(b.width))


@move(1, 2, 3)
def roll(b: Builder) -> None:
    b.step("roll", (), b.axis, b.pick(1, 2), b.pick(True, False, False, False))


@move(1, 2, 3)
def twice(b: Builder) -> None:
    b.step("twice", (linear(b, b.width),), b.activation())


@move(1, 2, 3)
def dropout(b: Builder) -> None:
    b.step("layer", (b.layer("dropout"),))


@st.composite
def programs(draw: Any, longest: int = 7) -> Program:
    """Draws a program: a stem, one to `longest` moves, and a linear head."""
    rank = draw(st.sampled_from((3, 3, 2, 1)))
    side = draw(st.sampled_from((4, 4, 6, 8)))
    shape: tuple[int, ...] = {3: (3, side, side), 2: (5, 6), 1: (6,)}[rank]
    b = Builder(draw, shape)
    MOVES["conv" if rank == 3 else "project"].make(b)
    for _ in range(draw(st.integers(1, longest))):
        fitting = [name for name, move in MOVES.items() if move.fits(b)]
        MOVES[b.pick(*fitting)].make(b)
    if len(b.shape) > 1:
        MOVES["to_row"].make(b)
    b.step("layer", (b.layer("linear", b.width, 3, True),))
    return Program(shape, tuple(b.layers), tuple(b.steps), tuple(b.ties))

"""One image of a character, drawn at random and made hard to read.

The corruptions are the usual ones of rendered-text data sets (Jaderberg et al., 2014): font,
affine map, stroke width, clutter, contrast, blur and noise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from fxplastic.data.alphabet import alphabet, glyph, text_fonts
from fxplastic.errors import DataError

SIDE = 32  # pixels of an image
_CANVAS = 2 * SIDE  # drawn at twice the size, then halved: smooth edges for little time

_LARGEST = {"rotation": 180, "shear": 5, "scale": 2, "shift": 1, "contrast": 1, "ghost": 1}


@dataclass(frozen=True)
class Difficulty:
    """The ranges that an image's corruptions are drawn from, all of them uniformly.

    The defaults are made for a test accuracy of 30 to 70 % at imbalance 100, so that methods can
    differ.

    Attributes:
        rotation: up to as many degrees, either way.
        shear: up to as much horizontal slant, either way, as a tangent.
        scale: the character's longer side, in parts of the image's.
        shift: up to as far from the middle, along each axis, in parts of the image's side.
        stroke: pixels added around the outline, of a font of 64 pixels.
        contrast: of ink and background, in parts of the grey range; either may be the darker.
        clutter: how many pieces of other characters reach in from the sides.
        lines: how many lines run across, half of them ink, half of them background.
        ghost: the clutter's contrast, in parts of the character's.
        blur: standard deviation, in pixels.
        noise: standard deviation of each pixel, in parts of the grey range.

    Raises:
        DataError: a range that is upside down, negative, or beyond what can be drawn.
    """

    rotation: float = 25.0
    shear: float = 0.35
    scale: tuple[float, float] = (0.5, 0.85)
    shift: float = 0.12
    stroke: tuple[int, int] = (0, 2)
    contrast: tuple[float, float] = (0.25, 0.8)
    clutter: tuple[int, int] = (1, 4)
    lines: tuple[int, int] = (0, 3)
    ghost: tuple[float, float] = (0.5, 1.0)
    blur: tuple[float, float] = (0.0, 1.0)
    noise: tuple[float, float] = (0.03, 0.15)

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            pair = value if isinstance(field.default, tuple) else (0, value)
            whole = field.name in ("stroke", "clutter", "lines")
            most = _LARGEST.get(field.name, 100)
            if not _is_range(pair, most, whole) or (field.name == "scale" and pair[0] == 0):
                kind = "whole numbers" if whole else "numbers"
                what = f"two {kind}" if pair is value else "a number"
                raise DataError(
                    f"Difficulty({field.name}={value!r}); give {what} from 0 to {most}, the "
                    "smaller first, and a scale above 0"
                )


def _is_range(pair: object, most: float, whole: bool) -> bool:
    kinds = int if whole else int | float
    return (
        isinstance(pair, tuple)
        and len(pair) == 2
        and all(isinstance(number, kinds) for number in pair)
        and 0 <= pair[0] <= pair[1] <= most
    )


def draw(character: str, difficulty: Difficulty, random: np.random.Generator) -> NDArray[np.uint8]:
    """An image of the character, uint8 ``[32, 32]``; all chance is the generator's."""
    right, down = (difficulty.shift * _CANVAS * random.uniform(-1, 1, 2)).tolist()
    ink = _placed(character, (right, down), difficulty, random)
    ink = ImageChops.lighter(ink, _clutter(difficulty, random))
    _cross(ink, difficulty, random)
    # Blurred after halving, where there are four times fewer pixels.
    small = ink.reduce(2).filter(ImageFilter.GaussianBlur(random.uniform(*difficulty.blur)))
    return _exposed(np.asarray(small, dtype=np.float32) / np.float32(255), difficulty, random)


def _placed(
    character: str, middle: tuple[float, float], difficulty: Difficulty, random: np.random.Generator
) -> Image.Image:
    """White ink on a black canvas, in a random font, with its middle so far from the canvas's."""
    fonts = text_fonts()
    first, last = difficulty.stroke
    shape = glyph(
        fonts[random.integers(len(fonts))], character, int(random.integers(first, last + 1))
    )
    angle = math.radians(difficulty.rotation) * random.uniform(-1, 1)
    shear = difficulty.shear * random.uniform(-1, 1)
    scale = random.uniform(*difficulty.scale) * _CANVAS / max(shape.size)
    return shape.transform(
        (_CANVAS, _CANVAS),
        Image.Transform.AFFINE,
        way_back(shape.size, middle, angle, shear, scale),
        Image.Resampling.BILINEAR,
    )


def way_back(
    size: tuple[int, int],
    middle: tuple[float, float],
    angle: float,
    shear: float,
    scale: float,
) -> tuple[float, float, float, float, float, float]:
    """Pillow's affine coefficients: from a place on the canvas to the shape's that is seen there.

    The shape is sheared, turned and scaled about its own middle, which comes to lie `middle` away
    from the canvas's.

    Args:
        size: of the shape, in pixels.
        middle: right and down, in pixels of the canvas.
        angle: in radians.
        shear: x moves by this much of y.
        scale: pixels of the canvas in one of the shape.
    """
    cos, sin = math.cos(angle) / scale, math.sin(angle) / scale
    a, b, d, e = cos + shear * sin, sin - shear * cos, -sin, cos
    x, y = _CANVAS / 2 + middle[0], _CANVAS / 2 + middle[1]
    return (a, b, size[0] / 2 - a * x - b * y, d, e, size[1] / 2 - d * x - e * y)


def _clutter(difficulty: Difficulty, random: np.random.Generator) -> Image.Image:
    """Pieces of other characters, which reach in from the sides, fainter than the ink."""
    layer = _black()
    others = alphabet()
    first, last = difficulty.clutter
    for _ in range(random.integers(first, last + 1)):
        angle, away = random.uniform(0, 2 * math.pi), random.uniform(0.45, 0.7) * _CANVAS
        middle = (away * math.cos(angle), away * math.sin(angle))
        other = _placed(others[random.integers(len(others))], middle, difficulty, random)
        faint = Image.blend(_black(), other, random.uniform(*difficulty.ghost))
        layer = ImageChops.lighter(layer, faint)
    return layer


def _black() -> Image.Image:
    return Image.new("L", (_CANVAS, _CANVAS))


def _cross(ink: Image.Image, difficulty: Difficulty, random: np.random.Generator) -> None:
    """Draw lines of ink or of background over the image."""
    pen = ImageDraw.Draw(ink)
    first, last = difficulty.lines
    for _ in range(random.integers(first, last + 1)):
        x0, y0, x1, y1 = (random.random(4) * _CANVAS).tolist()
        fill = round(255 * random.uniform(*difficulty.ghost)) if random.random() < 0.5 else 0
        pen.line((x0, y0, x1, y1), fill, width=int(random.integers(1, 5)))


def _exposed(
    ink: NDArray[np.float32], difficulty: Difficulty, random: np.random.Generator
) -> NDArray[np.uint8]:
    """Grey levels from the share of ink in each pixel: contrast, a slant of light, and noise."""
    contrast = random.uniform(*difficulty.contrast)
    background = random.uniform(0, 1 - contrast)
    ink = 1 - ink if random.random() < 0.5 else ink
    ramp = np.linspace(-0.5, 0.5, SIDE, dtype=np.float32)
    down, across = random.uniform(-0.3, 0.3, 2) * contrast
    light = np.float32(down) * ramp[:, None] + np.float32(across) * ramp
    noise = random.standard_normal((SIDE, SIDE), dtype=np.float32)
    grey = np.float32(background) + np.float32(contrast) * ink + light
    grey += np.float32(random.uniform(*difficulty.noise)) * noise
    result: NDArray[np.uint8] = (255 * grey.clip(0, 1)).round().astype(np.uint8)
    return result

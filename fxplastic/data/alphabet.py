"""Which characters are told apart in the rendered data set, and in which fonts they are drawn.

The fonts are those that matplotlib brings along. Only its text fonts count: they have letters of
three scripts, and the character that a code point says (its TeX fonts put others there).
"""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from fxplastic.errors import DataError

CLASSES = 100
GLYPH_SIZE = 64  # of a font, in pixels to the em
TEXT_FONTS = ("DejaVuSans", "DejaVuSerif", "STIXGeneral")
_UPRIGHT = ("DejaVuSans.ttf", "DejaVuSansMono.ttf", "DejaVuSerif.ttf", "STIXGeneral.ttf")
_CANDIDATES = (
    "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
    "ΓΔΘΛΞΠΣΦΨΩαβγδεζηθλμξπρσςτφχψω"
    "БГДЖЗИЛПФЦЧШЩЪЫЬЭЮЯбвгджзийклмнптфцчшщъыьэюя"
    "&@#$%?+=£€§¶æßøþð¿©®±ŋđħ¥"
)
_ALIKE = 0.9
_BOX, _MARGIN, _BLUR = 24, 4, 1.5  # pixels of the clean renderings that are compared


@functools.cache
def text_fonts() -> tuple[Path, ...]:
    """Files of matplotlib's text fonts, by name; those for large sizes (Display) are left out.

    Raises:
        DataError: matplotlib is not installed, or has no such fonts.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise DataError(
            "characters-lt is drawn with matplotlib's fonts; pip install matplotlib"
        ) from error
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    found = sorted(
        path
        for path in folder.glob("*.ttf")
        if path.name.startswith(TEXT_FONTS) and "Display" not in path.name
    )
    if not {path.name for path in found}.issuperset(_UPRIGHT):
        raise DataError(
            f"{folder} lacks one of {', '.join(_UPRIGHT)}; install matplotlib from its own wheel"
        )
    return tuple(found)


@functools.cache
def alphabet() -> tuple[str, ...]:
    """The 100 characters of the data set, a class each: digits, Latin, Greek, Cyrillic, signs.

    A candidate is left out where some text font lacks it, or where it looks like one before it:
    clean renderings in upright fonts, each stretched to the same square and slightly blurred (size
    and weight are no clue in the data set), correlate above 0.9 on average. That drops O beside 0,
    lower case with the shape of upper case (c and C), and what scripts share (A and Greek Alpha).

    Raises:
        DataError: matplotlib is not installed, or fewer than 100 characters are left.
    """
    fonts = text_fonts()
    from matplotlib.ft2font import FT2Font

    had = [FT2Font(path).get_charmap().keys() for path in fonts]
    there = [c for c in _CANDIDATES if all(ord(c) in codes for codes in had)]
    alike = likeness(tuple(there))
    kept: list[int] = []
    for i in range(len(there)):
        if not kept or alike[i, kept].max() <= _ALIKE:
            kept.append(i)
    if len(kept) < CLASSES:
        raise DataError(
            f"matplotlib's fonts in {fonts[0].parent} tell {len(kept)} characters apart, not "
            f"{CLASSES}; install matplotlib from its own wheel"
        )
    return tuple(there[i] for i in kept[:CLASSES])


def likeness(characters: tuple[str, ...]) -> NDArray[np.float64]:
    """Correlation of clean renderings, ``[characters, characters]``, mean over upright fonts."""
    tables = []
    for path in (path for path in text_fonts() if path.name in _UPRIGHT):
        rows = [np.asarray(_boxed(glyph(path, c, 0))).ravel() for c in characters]
        tables.append(np.corrcoef(np.array(rows, dtype=np.float64)))
    mean: NDArray[np.float64] = np.mean(tables, axis=0)
    return mean


@functools.lru_cache(maxsize=10_000)
def glyph(path: Path, character: str, stroke: int) -> Image.Image:
    """A character's ink, white on black, cut to its bounding box; shared, so not to be drawn on.

    Args:
        path: of the font.
        character: one character.
        stroke: pixels that are added on each side of the outline.
    """
    font = _font(path)
    left, top, right, bottom = font.getbbox(character, stroke_width=stroke)
    image = Image.new("L", (max(1, round(right - left)), max(1, round(bottom - top))))
    where = (-left, -top)
    ImageDraw.Draw(image).text(where, character, 255, font, stroke_width=stroke)
    return image


@functools.cache
def _font(path: Path) -> ImageFont.FreeTypeFont:
    # The basic layout is the same whether or not Pillow was built with a shaping library.
    return ImageFont.truetype(path, GLYPH_SIZE, layout_engine=ImageFont.Layout.BASIC)


def _boxed(ink: Image.Image) -> Image.Image:
    """The ink stretched to a square, with a margin for the blur."""
    square = Image.new("L", (_BOX + 2 * _MARGIN, _BOX + 2 * _MARGIN))
    square.paste(ink.resize((_BOX, _BOX)), (_MARGIN, _MARGIN))
    return square.filter(ImageFilter.GaussianBlur(_BLUR))

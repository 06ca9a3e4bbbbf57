"""The rendered characters: what is drawn, from what chance alone, and how it is kept."""

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch

from fxplastic import data
from fxplastic.data import Difficulty, LongTailed, alphabet, cache, characters, render
from fxplastic.errors import DataError

SMALL = {"most": 3, "test": 1, "imbalance": 3.0}


def load(root: Path, **options: object) -> LongTailed:
    return data.load_characters(root=root, **{**SMALL, **options})


def image(character: str = "R", place: tuple[int, ...] = (0, 0, 0, 0), **how: object) -> np.ndarray:
    return characters.image_of(character, place, Difficulty(**how))


def clean(character: str, **how: object) -> np.ndarray:
    """Without corruptions but for the font, and the polarity, which is undone."""
    calm = {
        field.name: (1, 1) if field.name in ("scale", "contrast") else (0, 0)
        for field in fields(Difficulty)
        if field.name not in ("rotation", "shear", "shift")
    }
    still = {"rotation": 0.0, "shear": 0.0, "shift": 0.0}
    drawn = image(character, **{**calm, **still, **how}).astype(float)
    return 255 - drawn if drawn[0].mean() + drawn[-1].mean() > 255 else drawn


# ------------------------------------------------------------ the alphabet
def test_there_are_a_hundred_characters_that_every_font_has() -> None:
    found = alphabet.alphabet()
    assert len(found) == len(set(found)) == 100
    assert len(alphabet.text_fonts()) == 16
    from matplotlib.ft2font import FT2Font

    for path in alphabet.text_fonts():
        assert {ord(c) for c in found} <= FT2Font(path).get_charmap().keys()


def test_no_two_characters_look_alike() -> None:
    found = alphabet.alphabet()
    alike = alphabet.likeness(found) - np.eye(len(found))
    assert alike.max() <= 0.9


# Latin A and Greek Alpha; Latin B and P, and Cyrillic Ve and Er.
BETWEEN_SCRIPTS = ["A\u0391", "B\u0412", "P\u0420"]


@pytest.mark.parametrize("pair", ["0O", "cC", "sS", "vV", "wW", "xX", "zZ", "яЯ", *BETWEEN_SCRIPTS])
def test_look_alikes_are_measured_as_such_and_one_at_most_is_kept(pair: str) -> None:
    assert alphabet.likeness(tuple(pair))[0, 1] > 0.9
    assert len(set(pair) & set(alphabet.alphabet())) <= 1


def test_every_class_has_its_character_and_the_head_is_of_no_one_script() -> None:
    names = characters.classes()
    assert sorted(names) == sorted(alphabet.alphabet())
    head = names[:35]
    assert sum(c.isdigit() for c in head) < 10
    assert sum("\u0410" <= c <= "\u044f" for c in head) > 2


# ------------------------------------------------------------ what is drawn
def test_without_corruption_the_ink_is_the_characters_own() -> None:
    known = alphabet.alphabet()
    table = np.array([whole(path, c) for path in alphabet.text_fonts() for c in known])
    for character in ("R", "Ж", "8", "φ", "@"):
        drawn = clean(character, scale=(0.9, 0.9)).ravel()
        nearest = np.corrcoef(np.vstack([drawn, table]))[0, 1:].argmax()
        assert known[nearest % len(known)] == character


def whole(path: Path, character: str) -> np.ndarray:
    """The glyph in the middle of an image, its longer side 0.9 of the image's."""
    ink = alphabet.glyph(path, character, 0)
    width, height = (max(1, round(0.9 * 32 * side / max(ink.size))) for side in ink.size)
    result = np.zeros((32, 32))
    top, left = (32 - height) // 2, (32 - width) // 2
    result[top : top + height, left : left + width] = np.asarray(ink.resize((width, height)))
    return result.ravel()


@pytest.mark.parametrize(
    "how",
    [
        {"rotation": 60.0},
        {"shear": 1.0},
        {"scale": (0.5, 0.5)},
        {"shift": 0.3},
        {"stroke": (3, 3)},
        {"contrast": (0.3, 0.3)},
        {"clutter": (4, 4), "ghost": (1, 1)},
        {"lines": (4, 4), "ghost": (1, 1)},
        {"blur": (2, 2)},
        {"noise": (0.3, 0.3)},
    ],
)
def test_every_corruption_changes_the_image(how: dict) -> None:
    assert np.abs(clean("R", **how) - clean("R")).mean() > 2


def test_the_affine_map_does_what_its_numbers_say() -> None:
    assert clean("8", scale=(0.9, 0.9)).sum() > 2 * clean("8", scale=(0.5, 0.5)).sum()
    bar = clean("1", scale=(0.5, 0.5))
    rows = np.flatnonzero(bar.max(1) > 100)
    assert 14 <= len(rows) <= 18  # half of 32 pixels
    for place in range(20):
        moved = image("8", (0, 0, 0, place), noise=(0, 0), clutter=(0, 0), lines=(0, 0))
        ink = np.abs(moved.astype(float) - np.median(moved)) > 30
        where = np.argwhere(ink).mean(0)
        assert np.abs(where - 15.5).max() < 0.12 * 32 + 4


def test_the_way_back_undoes_shear_turn_and_scale() -> None:
    angle, shear, scale, middle, size = 0.4, 0.3, 1.7, np.array((5.0, -3.0)), (40, 50)
    turn = np.array(((np.cos(angle), -np.sin(angle)), (np.sin(angle), np.cos(angle))))
    a, b, c, d, e, f = render.way_back(size, tuple(middle), angle, shear, scale)
    for place in np.array(((0.0, 0.0), (10.0, 0.0), (0.0, 10.0), (-7.0, 4.0))):
        there = 32 + middle + scale * turn @ ((1, shear), (0, 1)) @ place
        back = np.array(((a, b), (d, e))) @ there + (c, f)
        np.testing.assert_allclose(back, np.array(size) / 2 + place, atol=1e-12)


def test_an_image_hangs_on_seed_split_class_and_number_and_on_nothing_else() -> None:
    first = image(place=(1, 0, 2, 3))
    np.random.default_rng(0).random()
    image("Q", (9, 9, 9, 9))
    assert np.array_equal(image(place=(1, 0, 2, 3)), first)
    others = [(0, 0, 2, 3), (1, 1, 2, 3), (1, 0, 1, 3), (1, 0, 2, 4)]
    assert not any(np.array_equal(image(place=place), first) for place in others)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"noise": (0.3, 0.1)}, r"noise=\(0.3, 0.1\)"),
        ({"rotation": -5.0}, "rotation=-5.0"),
        ({"contrast": (0.5, 1.5)}, "from 0 to 1"),
        ({"scale": (0.0, 1.0)}, "a scale above 0"),
        ({"lines": (0.5, 1)}, "whole numbers"),
        ({"blur": (0.0, float("nan"))}, "blur="),
        ({"blur": 0.5}, "blur=0.5.*two numbers"),
        ({"noise": (0.1, 0.2, 0.3)}, "two numbers"),
        ({"shear": (0.1, 0.2)}, "a number from 0 to 5"),
    ],
)
def test_ranges_that_cannot_be_drawn_from_are_refused(how: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Difficulty(**how)


# ------------------------------------------------------------ the data set
def test_the_set_has_its_counts_and_a_balanced_test(tmp_path: Path) -> None:
    found = load(tmp_path)
    assert found.counts == data.exponential_counts(3, 100, 3)
    assert torch.bincount(found.labels).tolist() == list(found.counts)
    assert torch.bincount(found.test.labels).tolist() == [1] * 100
    assert found.train[0][0].shape == found.input_size == (1, 32, 32)
    assert found.classes == characters.classes()


def test_a_seed_gives_the_same_pixels_and_another_seed_others(tmp_path: Path) -> None:
    first, again = load(tmp_path / "a"), load(tmp_path / "b")
    other = load(tmp_path / "a", seed=1)
    for mine, same, different in (
        (first.train, again.train, other.train),
        (first.test, again.test, other.test),
    ):
        assert torch.equal(mine.images, same.images)
        assert not torch.equal(mine.images, different.images)


def test_a_steeper_tail_has_the_first_images_of_each_class(tmp_path: Path) -> None:
    flat, steep = load(tmp_path, imbalance=1.0), load(tmp_path)
    for c, count in enumerate(steep.counts):
        longer, shorter = (d.train.images[d.labels == c] for d in (flat, steep))
        assert torch.equal(longer[:count], shorter)
    assert torch.equal(flat.test.images, steep.test.images)


def test_no_test_image_is_a_training_image(tmp_path: Path) -> None:
    found = load(tmp_path)
    trained = {picture.numpy().tobytes() for picture in found.train.images}
    assert not trained & {picture.numpy().tobytes() for picture in found.test.images}


@pytest.mark.parametrize("options", [{"test": 0}, {"most": 0}, {"seed": -1}, {"imbalance": 0.5}])
def test_settings_out_of_range_are_refused(tmp_path: Path, options: dict) -> None:
    with pytest.raises(DataError, match=next(iter(options))):
        load(tmp_path, **options)
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------ the cache
def files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def test_a_second_load_draws_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load(tmp_path)
    assert [path.suffix for path in files(tmp_path)] == [".npz"]
    monkeypatch.setattr(characters, "draw", None)
    again = load(tmp_path)
    assert torch.equal(again.train.images, first.train.images)
    assert torch.equal(again.test.images, first.test.images)


@pytest.mark.parametrize("damage", ["cut", "flip", "text", "empty", "array", "other"])
def test_a_damaged_file_is_drawn_anew(tmp_path: Path, damage: str) -> None:
    first = load(tmp_path)
    (path,) = files(tmp_path)
    good = path.read_bytes()
    middle = len(good) // 2
    if damage == "other":
        np.savez(path, train=np.zeros((1, 32, 32), np.uint8), test=np.zeros((1, 32, 32), np.uint8))
    elif damage == "array":
        with path.open("wb") as file:
            np.save(file, np.zeros((1, 32, 32), np.uint8))
    else:
        path.write_bytes(
            {
                "cut": good[:middle],
                "flip": good[:middle] + bytes([good[middle] ^ 1]) + good[middle + 1 :],
                "text": b"not an archive",
                "empty": b"",
            }[damage]
        )
    again = load(tmp_path)
    assert torch.equal(again.train.images, first.train.images)
    with np.load(path) as written:
        assert np.array_equal(written["train"], first.train.images[:, 0].numpy())
    assert files(tmp_path) == [path]


def test_no_changed_byte_is_taken_for_a_pixel(tmp_path: Path) -> None:
    drawn = {"train": np.arange(600, dtype=np.uint8).reshape(6, 10, 10)}
    shapes = {"train": (6, 10, 10)}
    cache.cached(tmp_path, "small", {}, shapes, lambda: drawn)
    (path,) = files(tmp_path)
    good = path.read_bytes()
    refused = 0
    for place in range(0, len(good), 3):
        changed = bytearray(good)
        changed[place] ^= 1 << (place % 8)
        path.write_bytes(changed)
        found = cache._read(path, shapes)
        refused += found is None
        assert found is None or np.array_equal(found["train"], drawn["train"])
    assert refused > 200


def test_everything_that_decides_a_pixel_has_a_file_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(characters, "draw", lambda *_: np.zeros((32, 32), np.uint8))
    load(tmp_path)
    for options in (
        {"seed": 1},
        {"most": 4},
        {"test": 2},
        {"imbalance": 1.0},
        {"difficulty": Difficulty(noise=(0.0, 0.0))},
    ):
        load(tmp_path, **options)
    monkeypatch.setattr(characters, "VERSION", characters.VERSION + 1)
    load(tmp_path)
    monkeypatch.setattr("PIL.__version__", "0.0")
    load(tmp_path)
    monkeypatch.setattr("matplotlib.__version__", "0.0")
    load(tmp_path)
    assert len(files(tmp_path)) == 9


def test_a_write_that_fails_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(cache.np, "savez", fails)
    with pytest.raises(DataError, match="no space left"):
        load(tmp_path)
    assert files(tmp_path) == []


def test_a_folder_that_cannot_be_written_to_is_refused_before_anything_is_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(characters, "draw", None)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written to"):
        load(tmp_path / "file" / "folder")


def test_a_folder_that_can_only_be_read_serves_what_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load(tmp_path)

    def fails(**_: object) -> None:
        raise PermissionError("read-only")

    monkeypatch.setattr(cache.tempfile, "TemporaryFile", fails)
    assert torch.equal(load(tmp_path).train.images, first.train.images)
    with pytest.raises(DataError, match="read-only"):
        load(tmp_path, seed=1)


def test_the_default_folder_is_the_users_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert data.cache_folder() == tmp_path / "fxplastic" / "data"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "me")
    assert data.cache_folder() == tmp_path / "me" / ".cache" / "fxplastic" / "data"


def test_glyphs_are_shared_and_never_drawn_on() -> None:
    font = alphabet.text_fonts()[0]
    before = alphabet.glyph(font, "R", 0).tobytes()
    for place in range(40):
        render.draw("R", Difficulty(), np.random.Generator(np.random.PCG64(place)))
    assert alphabet.glyph(font, "R", 0).tobytes() == before

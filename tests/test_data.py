"""Long-tailed data: profiles, splits, sets in memory, and what `load` refuses."""

import ast
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torchvision.transforms import Compose, Normalize, ToTensor

import fxplastic
from fxplastic import data
from fxplastic.data import Augmentation, LongTailed, TensorSet
from fxplastic.errors import DataError, FxPlasticError

ROOT = Path(fxplastic.__file__).parent


def tensor_set(
    count: int = 6, augmentation: Augmentation | None = None, channels: int = 3
) -> TensorSet:
    """Random bytes, none of them 0, so that black pixels can only come from a border."""
    draw = torch.Generator().manual_seed(5)
    images = torch.randint(1, 256, (count, channels, 8, 10), generator=draw, dtype=torch.uint8)
    scale = ((0.4, 0.5, 0.6)[:channels], (0.2, 0.3, 0.4)[:channels])
    return TensorSet(images, torch.arange(count) % 3, *scale, augmentation)


def long_tailed(counts: Sequence[int]) -> LongTailed:
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    held = TensorSet(torch.zeros(len(labels), 1, 2, 2), labels, (0.0,), (1.0,))
    names = tuple(f"class {c}" for c in range(len(counts)))
    return LongTailed("made up", held, held, names, tuple(counts), (1, 2, 2), labels)


# ------------------------------------------------------------ profiles
def test_the_profile_is_the_one_of_the_literature() -> None:
    ten = data.exponential_counts(5000, 10, 100)
    assert ten == (5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50)
    assert sum(ten) == 12406
    assert sum(data.exponential_counts(500, 100, 100)) == 10847
    assert sum(data.exponential_counts(5000, 10, 10)) == 20431


@pytest.mark.parametrize("imbalance", [1, 1.5, 3, 10, 50, 100, 200, 256, 1000])
@pytest.mark.parametrize(("most", "classes"), [(5000, 10), (500, 100), (134, 10)])
def test_the_profile_is_what_the_code_of_ldam_computes(
    most: int, classes: int, imbalance: float
) -> None:
    factor = 1 / imbalance
    expected = [int(most * factor ** (c / (classes - 1.0))) for c in range(classes)]
    assert data.exponential_counts(most, classes, imbalance) == tuple(max(1, n) for n in expected)


def test_no_class_is_empty_at_any_imbalance_and_one_class_has_all() -> None:
    assert data.exponential_counts(7, 3, 1e9) == (7, 1, 1)
    assert data.exponential_counts(7, 1, 100) == (7,)
    assert data.exponential_counts(7, 3, 1) == (7, 7, 7)


@pytest.mark.parametrize("imbalance", [0.99, 0, -3, math.nan, math.inf, "100", True, None])
def test_an_imbalance_below_one_or_not_finite_is_refused(imbalance: float) -> None:
    with pytest.raises(DataError, match=f"imbalance={imbalance!r}"):
        data.exponential_counts(10, 3, imbalance)
    with pytest.raises(DataError, match="imbalance="):
        data.load("digits-lt", imbalance=imbalance)


@pytest.mark.parametrize(("most", "classes"), [(0, 3), (5, 0), (2.5, 3), (True, 3)])
def test_sizes_below_one_are_refused(most: int, classes: int) -> None:
    with pytest.raises(DataError, match="at least 1"):
        data.exponential_counts(most, classes, 10)


def test_kept_samples_have_the_counts_and_no_sample_twice() -> None:
    labels = torch.arange(300) % 3
    kept = data.keep_counts(labels, (50, 0, 7), seed=1)
    assert kept.dtype == torch.int64
    assert torch.bincount(labels[kept], minlength=3).tolist() == [50, 0, 7]
    assert len(set(kept.tolist())) == 57


def test_the_same_seed_keeps_the_same_samples_on_every_platform() -> None:
    labels = torch.arange(1000) % 2
    found = [data.keep_counts(labels, (4, 3), seed).tolist() for seed in (0, 1)]
    # Written down once: from raw output of PCG64, which NumPy promises not to change.
    assert found == [[850, 600, 196, 608, 855, 921, 269], [458, 622, 828, 774, 323, 93, 61]]
    assert data.keep_counts(labels, (4, 3), 0).tolist() == found[0]


def test_fewer_samples_are_the_first_of_more() -> None:
    labels = torch.arange(1000) % 2
    many = data.keep_counts(labels, (400, 400), 3)
    few = data.keep_counts(labels, (400, 5), 3)
    assert torch.equal(few, many[:405])


def test_which_samples_are_kept_does_not_hang_on_the_other_classes() -> None:
    labels = torch.arange(1000) % 2
    alone = data.keep_counts(labels, (0, 9), 3)
    assert torch.equal(data.keep_counts(labels, (77, 9), 3)[77:], alone)


@pytest.mark.parametrize(
    ("labels", "counts", "seed", "message"),
    [
        ([0, 0, 1], (2, 2), 0, "class 1 is to keep 2 samples, and has 1"),
        ([0, 0, 1], (-1, 1), 0, "class 0 is to keep -1"),
        ([0, 0, 1], (1.5, 1), 0, "class 0 is to keep 1.5"),
        ([0, 2, 1], (1, 1), 0, "the label of sample 1 is 2"),
        ([0, -1, 1], (1, 1), 0, "the label of sample 1 is -1"),
        ([0], (), 0, "0 classes"),
        ([0, 1], (1, 1), -1, "seed=-1"),
        ([0, 1], (1, 1), 0.5, "seed=0.5"),
        ([0.0, 1.0], (1, 1), 0, "float32"),
        ([[0, 1]], (1, 1), 0, r"shape \(1, 2\)"),
    ],
)
def test_samples_that_cannot_be_kept_are_refused_by_name(
    labels: list[int], counts: tuple[int, ...], seed: int, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        data.keep_counts(torch.tensor(labels), counts, seed)


# ------------------------------------------------------------ the data set as a value
def test_splits_are_those_of_oltr() -> None:
    splits = long_tailed([101, 100, 20, 19, 1]).splits()
    assert splits == {"many": (0,), "medium": (1, 2), "few": (3, 4)}


def test_every_class_is_in_one_split_whatever_the_bounds() -> None:
    found = long_tailed([30, 12, 11, 10, 3]).splits(many=11, few=12)
    assert found == {"many": (0, 1), "medium": (), "few": (2, 3, 4)}
    with pytest.raises(DataError, match="few=13 with many=11"):
        long_tailed([30]).splits(many=11, few=13)


def test_counts_that_are_not_those_of_the_labels_are_refused() -> None:
    good = long_tailed([3, 2])
    with pytest.raises(DataError, match=r"\(2, 3\), its labels have \(3, 2\)"):
        replace(good, counts=(2, 3))
    with pytest.raises(DataError, match="class 2 of 'made up' has no training sample"):
        replace(good, classes=("a", "b", "c"), counts=(3, 2, 0))
    with pytest.raises(DataError, match="5 labels for 6 training samples"):
        replace(good, train=tensor_set(6))


def test_a_description_says_sizes_imbalance_and_splits() -> None:
    text = data.describe(long_tailed([200, 50, 10, 4]))
    assert text.splitlines() == [
        "made up: 4 classes, images of 1 x 2 x 2",
        "  264 to train, 264 to test",
        "  from 200 down to 4 training images a class, imbalance 50",
        "  1 many (over 100), 1 medium (20 to 100), 2 few (under 20)",
    ]


# ------------------------------------------------------------ sets in memory
def test_a_batch_without_a_generator_is_the_samples_as_torchvision_normalises_them() -> None:
    held = tensor_set(augmentation=Augmentation(4, flip=True))
    usual = Compose([ToTensor(), Normalize(held.mean, held.std)])
    images, labels = held.batch(torch.tensor([4, 0, 4]), None)
    assert labels.tolist() == [1, 0, 1]
    assert images.dtype == torch.float32
    for image, index in zip(images, (4, 0, 4), strict=True):
        assert torch.equal(image, usual(held.images[index].permute(1, 2, 0).numpy()))
        assert torch.equal(image, held[index][0])
    assert held[4][1] == 1
    assert isinstance(held[4][1], int)


def test_a_set_without_augmentation_ignores_the_generator() -> None:
    held, draw = tensor_set(), torch.Generator().manual_seed(0)
    before = draw.get_state()
    assert torch.equal(held.batch(torch.arange(3), draw)[0], held.batch(torch.arange(3), None)[0])
    assert torch.equal(draw.get_state(), before)


def test_augmentation_is_repeated_from_the_generator_alone() -> None:
    held = tensor_set(augmentation=Augmentation(3, flip=True))

    def batch(seed: int) -> Tensor:
        return held.batch(torch.arange(6), torch.Generator().manual_seed(seed))[0]

    torch.manual_seed(1)
    first, state = batch(0), torch.get_rng_state()
    torch.rand(3)
    assert torch.equal(batch(0), first)
    assert not torch.equal(batch(1), first)
    torch.manual_seed(1)
    batch(2)
    assert torch.equal(torch.get_rng_state(), state)  # nothing is drawn from anywhere else


@pytest.mark.parametrize("border", ["zero", "edge"])
def test_augmented_images_are_crops_within_the_padding_perhaps_mirrored(border: str) -> None:
    padding = 2
    held = tensor_set(1, Augmentation(padding, flip=True, border=border))
    mode = "constant" if border == "zero" else "replicate"
    padded = torch.nn.functional.pad(held.images.float(), (padding,) * 4, mode=mode)
    crops = {}
    for mirrored in (False, True):
        for down in range(2 * padding + 1):
            for right in range(2 * padding + 1):
                crop = padded[0, :, down : down + 8, right : right + 10]
                crop = crop.flip(-1) if mirrored else crop
                crops[tuple(crop.flatten().byte().tolist())] = (down, right, mirrored)
    plain = replace(held, mean=(0.0,) * 3, std=(1 / 255,) * 3)
    images, _ = plain.batch(torch.zeros(2000, dtype=torch.int64), torch.Generator().manual_seed(0))
    found = {crops[tuple(image.flatten().round().byte().tolist())] for image in images}
    assert len(found) == len(crops) == 50  # all of them occur, and nothing else


def test_without_a_flip_no_image_is_mirrored() -> None:
    held = tensor_set(1, Augmentation(0))
    images, _ = held.batch(torch.zeros(50, dtype=torch.int64), torch.Generator().manual_seed(0))
    assert torch.equal(images, held.batch(torch.zeros(50, dtype=torch.int64), None)[0])


def test_float_images_are_not_divided_and_stay_as_they_were() -> None:
    images = torch.rand(2, 1, 4, 4)
    before = images.clone()
    held = TensorSet(images, torch.tensor([0, 1]), (0.5,), (0.5,), Augmentation(1))
    assert torch.equal(held[1][0], (images[1] - 0.5) / 0.5)
    held.batch(torch.tensor([0, 1]), torch.Generator().manual_seed(0))
    assert torch.equal(images, before)


def test_a_set_moves_to_a_device_as_a_new_value() -> None:
    held = tensor_set(augmentation=Augmentation(1))
    moved = held.to("meta")
    assert moved.images.device.type == moved.labels.device.type == "meta"
    assert held.images.device.type == "cpu"
    assert moved.augmentation == held.augmentation


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": torch.zeros(6, 8, 8)}, r"shape \(6, 8, 8\)"),
        ({"images": torch.zeros(6, 3, 8, 8, dtype=torch.float64)}, "float64"),
        ({"labels": torch.zeros(5, dtype=torch.int64)}, "6 images"),
        ({"labels": torch.zeros(6)}, "labels are torch.float32"),
        ({"labels": torch.zeros(6, dtype=torch.int64, device="meta")}, "labels on meta"),
        ({"mean": (0.5,)}, "3 channels"),
        ({"std": (0.5, 0.5, 0.0)}, "above 0"),
    ],
)
def test_tensors_that_do_not_fit_together_are_refused(change: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        replace(tensor_set(6), **change)


def test_bad_indices_and_augmentations_are_refused() -> None:
    held = tensor_set()
    for indices in (torch.tensor([0.0]), torch.tensor(1), torch.ones(6, dtype=torch.bool)):
        with pytest.raises(DataError, match="indices"):
            held.batch(indices, None)
    with pytest.raises(IndexError):
        held.batch(torch.tensor([6]), None)
    with pytest.raises(DataError, match="padding=-1"):
        Augmentation(-1)
    with pytest.raises(DataError, match="border='wrap'"):
        Augmentation(1, border="wrap")


def test_a_set_is_walked_through_to_its_end() -> None:
    held = tensor_set(4)
    assert [label for _, label in held] == [0, 1, 2, 0]


# ------------------------------------------------------------ digits
def test_digits_have_a_long_tail_and_a_balanced_test_set_apart_from_it() -> None:
    found = data.load("digits-lt", imbalance=20, seed=3)
    assert found.counts == data.exponential_counts(134, 10, 20)
    assert torch.bincount(found.labels).tolist() == list(found.counts)
    assert torch.bincount(found.test.labels).tolist() == [40] * 10
    assert found.train[0][0].shape == found.input_size == (1, 32, 32)
    trained = {tuple(image.flatten().tolist()) for image in found.train.images}
    tested = {tuple(image.flatten().tolist()) for image in found.test.images}
    assert not trained & tested


def test_digits_of_one_seed_share_the_test_set_and_the_first_training_images() -> None:
    mild, steep = (data.load("digits-lt", imbalance=p, seed=1) for p in (10, 100))
    other = data.load("digits-lt", imbalance=10, seed=2)
    assert torch.equal(mild.test.images, steep.test.images)
    assert not torch.equal(mild.test.images, other.test.images)
    for c, count in enumerate(steep.counts):
        longer, shorter = (d.train.images[d.labels == c] for d in (mild, steep))
        assert torch.equal(longer[:count], shorter)


# ------------------------------------------------------------ what load refuses
@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("cifar-lt", {}, "no data set 'cifar-lt'.*did you mean 'cifar10-lt'"),
        ("digits", {}, "did you mean 'digits-lt'"),
        ("cifar10-lt", {}, "give their folder as root"),
        ("imagenet-lt", {}, "give their folder as root"),
        ("imagenet-lt", {"root": "not/there"}, "not/there' is not a folder"),
        ("cifar100-lt", {"root": "not/there"}, "not/there' is not a folder"),
        ("inaturalist2018", {"root": ".", "imbalance": 10}, "lists have their own"),
        ("digits-lt", {"image_size": 64}, "image_size=64"),
        ("characters-lt", {"image_size": 64}, "image_size=64"),
        ("characters-lt", {"download": True}, "cannot be downloaded"),
        ("digits-lt", {"seed": -1}, "seed=-1"),
        ("characters-lt", {"seed": 1.0}, "seed=1.0"),
    ],
)
def test_settings_that_cannot_be_are_refused_by_name(
    name: str, options: dict, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        data.load(name, **options)


def test_errors_are_of_the_project() -> None:
    assert issubclass(DataError, FxPlasticError)


# ------------------------------------------------------------ independence
def imports(path: Path) -> set[str]:
    """Modules that a file names in its imports, those inside functions included."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def file_of(module: str) -> Path | None:
    path = ROOT.parent.joinpath(*module.split("."))
    return next((p for p in (path.with_suffix(".py"), path / "__init__.py") if p.is_file()), None)


def test_the_pass_does_not_import_the_data() -> None:
    """Neither what `import fxplastic` brings in, step by step, nor the rules."""
    todo, seen = ["fxplastic", *(f"fxplastic.rules.{p.stem}" for p in ROOT.glob("rules/*.py"))], {}
    while todo:
        module = todo.pop()
        path = file_of(module)
        if module in seen or path is None:
            continue
        seen[module] = {name for name in imports(path) if name.startswith("fxplastic")}
        todo += seen[module]
    assert {"fxplastic.rewrite", "fxplastic.ledger"} <= seen.keys()
    assert not [name for name in seen if name.startswith("fxplastic.data")]


def test_the_data_imports_nothing_of_the_pass_but_its_errors() -> None:
    files = sorted((ROOT / "data").glob("*.py"))
    assert len(files) > 8
    for path in files:
        ours = {name for name in imports(path) if name.startswith("fxplastic.")}
        assert not {n for n in ours if not n.startswith(("fxplastic.data", "fxplastic.errors"))}

"""CIFAR from torchvision's files, and published list files with everything that can be wrong."""

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from fxplastic import data
from fxplastic.data.image_list import LISTINGS, Listing, load_listed
from fxplastic.errors import DataError

THREE = Listing("three", "train.txt", "val.txt", 3)


# ------------------------------------------------------------ CIFAR
def write_cifar(folder: Path, classes: int, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """A few images in torchvision's format, with the sums that it is to check; training bytes."""
    kind = {10: torchvision.datasets.CIFAR10, 100: torchvision.datasets.CIFAR100}[classes]
    base = folder / kind.base_folder
    base.mkdir(parents=True)
    sums: dict[str, str] = {}

    def write(name: str, content: dict) -> None:
        (base / name).write_bytes(pickle.dumps(content))
        sums[name] = hashlib.md5((base / name).read_bytes()).hexdigest()

    draw, trained = np.random.default_rng(0), []
    key = "labels" if classes == 10 else "fine_labels"
    for name, _ in [*kind.train_list, *kind.test_list]:
        count = classes if "test" in name else 4 * classes
        pixels = draw.integers(0, 256, (count, 3 * 32 * 32), dtype=np.uint8)
        trained += [] if "test" in name else [pixels]
        write(name, {"data": pixels, key: [i % classes for i in range(count)]})
    names = [f"thing {c}" for c in range(classes)]
    write(kind.meta["filename"], {kind.meta["key"]: names})
    for attribute in ("train_list", "test_list"):
        listed = [[name, sums[name]] for name, _ in getattr(kind, attribute)]
        monkeypatch.setattr(kind, attribute, listed)
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": sums[kind.meta["filename"]]})
    return np.concatenate(trained)


@pytest.mark.parametrize(("classes", "most"), [(10, 20), (100, 4)])
def test_cifar_is_cut_to_the_profile_and_keeps_its_test_set(
    classes: int, most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = write_cifar(tmp_path, classes, monkeypatch)
    found = data.load(f"cifar{classes}-lt", root=tmp_path, imbalance=4)
    assert found.counts == data.exponential_counts(most, classes, 4)
    assert torch.bincount(found.labels).tolist() == list(found.counts)
    assert torch.bincount(found.test.labels).tolist() == [1] * classes
    assert found.classes == tuple(f"thing {c}" for c in range(classes))
    assert found.train[0][0].shape == found.input_size == (3, 32, 32)
    known = {row.tobytes(): i % classes for i, row in enumerate(pixels)}
    labels = [known[image.numpy().tobytes()] for image in found.train.images]
    assert labels == found.labels.tolist()
    assert len({image.numpy().tobytes() for image in found.train.images}) == len(labels)


def test_cifar_is_augmented_in_training_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_cifar(tmp_path, 10, monkeypatch)
    found = data.load("cifar10-lt", root=str(tmp_path), imbalance=2)
    assert found.train.augmentation == data.Augmentation(4, flip=True, border="zero")
    assert found.test.augmentation is None


def test_cifar_of_another_seed_keeps_other_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_cifar(tmp_path, 10, monkeypatch)
    first, again, other = (
        data.load("cifar10-lt", root=tmp_path, imbalance=10, seed=seed) for seed in (0, 0, 1)
    )
    assert torch.equal(first.train.images, again.train.images)
    assert not torch.equal(first.train.images, other.train.images)


@pytest.mark.parametrize("damage", ["missing", "changed"])
def test_cifar_files_that_are_missing_or_damaged_are_refused(
    damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_cifar(tmp_path, 10, monkeypatch)
    file = tmp_path / "cifar-10-batches-py" / "data_batch_3"
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes() + b" ")
    with pytest.raises(DataError, match="CIFAR-10 is not at root=.*cifar-10-batches-py"):
        data.load("cifar10-lt", root=tmp_path)


# ------------------------------------------------------------ list files
@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three classes with 3, 2 and 1 training images, of sizes of their own, and a test image each.

    The image of class c is of one colour, whose red is ``50 * c``.
    """
    lists: dict[str, list[str]] = {"train.txt": [], "val.txt": []}
    for file, counts in (("train.txt", (3, 2, 1)), ("val.txt", (1, 1, 1))):
        for c, count in enumerate(counts):
            for i in range(count):
                path = f"{file[:-4]}/kind {c}/{i}.png"
                (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (40 + 3 * i, 30), (50 * c, 100, 200)).save(tmp_path / path)
                lists[file].append(f"{path} {c}")
    for file, lines in lists.items():
        (tmp_path / file).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return tmp_path


def set_line(file: Path, number: int, text: str) -> None:
    lines = file.read_text(encoding="utf-8").splitlines()
    lines[number - 1] = text
    file.write_text("\n".join(lines), encoding="utf-8")


def test_a_listed_set_has_its_images_and_labels(root: Path) -> None:
    found = load_listed(THREE, root, image_size=24)
    assert found.counts == (3, 2, 1)
    assert found.labels.tolist() == [0, 0, 0, 1, 1, 2]
    assert (len(found.train), len(found.test)) == (6, 3)
    assert found.input_size == (3, 24, 24)
    for index, label in enumerate((0, 0, 0, 1, 1, 2)):
        image, given = found.train[index]
        assert given == label
        assert image.shape == found.input_size
        assert image.dtype == torch.float32
    for c in range(3):
        image, given = found.test[c]
        assert given == c
        expected = ((torch.tensor([50 * c, 100, 200]) / 255) - MEAN) / STD
        torch.testing.assert_close(image, expected[:, None, None].expand(3, 24, 24))


MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


def test_labels_are_known_without_opening_an_image(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "open", None)
    assert load_listed(THREE, root).labels.tolist() == [0, 0, 0, 1, 1, 2]


def test_a_data_loader_takes_a_listed_set(root: Path) -> None:
    found = load_listed(THREE, root, image_size=16)
    images, labels = next(iter(torch.utils.data.DataLoader(found.test, batch_size=3)))
    assert images.shape == (3, 3, 16, 16)
    assert labels.tolist() == [0, 1, 2]


@pytest.mark.parametrize("file", ["train.txt", "val.txt"])
@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("train/kind 0/0.png", "is not a path and a label"),
        ("train/kind 0/0.png 1.5", "is not a path and a label"),
        ("7", "is not a path and a label"),
        ("train/kind 0/0.png ²", "is not a path and a label"),
        ("train/kind 0/0.png 3", "the label is 3; give one from 0 to 2"),
        ("train/kind 0/0.png -1", "the label is -1; give one from 0 to 2"),
        ("/train/kind 0/0.png 1", "is absolute"),
        ("train/kind 0/9.png 1", r"9\.png does not exist \(1 of \d listed"),
        ("train/kind 0 1", "kind 0 does not exist"),
    ],
)
def test_a_bad_line_is_refused_with_the_list_and_its_number(
    file: str, line: str, message: str, root: Path
) -> None:
    set_line(root / file, 2, line)
    with pytest.raises(DataError, match=rf"{file}, line 2: .*{message}"):
        load_listed(THREE, root)


def test_the_line_number_is_that_of_the_file_with_its_blank_lines(root: Path) -> None:
    set_line(root / "train.txt", 1, "\n\ntrain/kind 0/9.png 0")
    with pytest.raises(DataError, match=r"train\.txt, line 3: "):
        load_listed(THREE, root)


def test_all_missing_images_are_counted(root: Path) -> None:
    for i in range(2):
        (root / "train" / "kind 1" / f"{i}.png").unlink()
    with pytest.raises(DataError, match=r"line 4: .*\(2 of 6 listed images are missing\)"):
        load_listed(THREE, root)


@pytest.mark.parametrize("file", ["train.txt", "val.txt"])
def test_a_class_without_a_sample_is_refused(file: str, root: Path) -> None:
    lines = (root / file).read_text().splitlines()
    (root / file).write_text("\n".join(line for line in lines if not line.endswith(" 1")))
    with pytest.raises(DataError, match=rf"{file}: class 1 has no sample \(1 of 3"):
        load_listed(THREE, root)


def test_an_empty_list_and_one_that_is_no_text_are_refused(root: Path) -> None:
    (root / "val.txt").write_text("\n")
    with pytest.raises(DataError, match=r"val\.txt: class 0 has no sample \(3 of 3"):
        load_listed(THREE, root)
    (root / "train.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"train\.txt is not UTF-8"):
        load_listed(THREE, root)


@pytest.mark.parametrize("file", ["train.txt", "val.txt"])
def test_a_missing_list_is_refused_before_any_image_is_looked_for(file: str, root: Path) -> None:
    (root / file).unlink()
    (root / "train" / "kind 0" / "0.png").unlink()
    with pytest.raises(DataError, match=rf"{file}, which is not there"):
        load_listed(THREE, root)


@pytest.mark.parametrize("size", [0, -3, 2.5, True])
def test_a_bad_image_size_is_refused(size: int, root: Path) -> None:
    with pytest.raises(DataError, match=f"image_size={size!r}"):
        load_listed(THREE, root, image_size=size)


def test_a_broken_image_is_named_when_it_is_read(root: Path) -> None:
    broken = root / "train" / "kind 0" / "1.png"
    broken.write_bytes(broken.read_bytes()[:60])
    found = load_listed(THREE, root)
    with pytest.raises(DataError, match=r"kind 0.1\.png cannot be read"):
        found.train[1]


@pytest.mark.parametrize("name", sorted(LISTINGS))
def test_published_sets_are_read_from_the_names_that_they_are_published_under(
    name: str, root: Path
) -> None:
    names = {
        "imagenet-lt": ("ImageNet_LT_train.txt", "ImageNet_LT_test.txt", 1000),
        "inaturalist2018": ("iNaturalist18_train.txt", "iNaturalist18_val.txt", 8142),
    }
    train, test, classes = names[name]
    lines = "".join(f"val/kind 1/0.png {c}\n" for c in range(classes))
    (root / train).write_text(lines + "val/kind 1/0.png 0\n")
    (root / test).write_text(lines)
    found = data.load(name, root=root)
    assert found.counts == (2, *(1 for _ in range(classes - 1)))
    assert found.input_size == (3, 224, 224)
    assert found.test[classes - 1][0].shape == (3, 224, 224)
    with pytest.raises(DataError, match="no data set"):
        data.load(name.upper(), root=root)

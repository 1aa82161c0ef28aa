"""Loaders: vendored files, image folders, full sets that are absent, and how they are fetched."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tasks.data import DataCorruptError, DataMissingError, data_directory, fetch, full, vendored
from tasks.data.images import load_images
from tasks.data.splits import hold_out, three_way
from tasks.data.torchvision_guard import torchvision_datasets
from tasks.vision.mlp import MLP


@pytest.fixture
def empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SUITE_DATA", str(tmp_path))
    return tmp_path


def draw(path: Path, shade: int, size: int = 6, mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((size, size) if mode == "L" else (size, size, 3), shade, dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def test_held_out_examples_are_always_the_same_and_disjoint() -> None:
    rows = torch.arange(50)
    (rest, kept_targets), (held, held_targets) = hold_out(rows, rows + 100, 8, "val_size")
    assert sorted([*rest.tolist(), *held.tolist()]) == rows.tolist()
    assert torch.equal(rest + 100, kept_targets)
    assert torch.equal(held + 100, held_targets)
    assert torch.equal(held, hold_out(rows, rows, 8, "val_size")[1][0])


def test_three_way_takes_validation_from_training_and_the_first_test_examples() -> None:
    train, test = torch.arange(30), torch.arange(100, 110)
    splits = three_way((train, train), (test, test), 5, 4)
    assert {split: len(inputs) for split, (inputs, _) in splits.items()} == {
        "train": 25,
        "val": 5,
        "test": 4,
    }
    assert not set(splits["train"][0].tolist()) & set(splits["val"][0].tolist())
    assert torch.equal(splits["test"][0], test[:4])


def test_vendored_images_are_balanced_and_complete() -> None:
    images = load_images("fashion_mnist_small")
    assert images.train[0].shape == (10_000, 1, 28, 28)
    assert images.test[0].shape == (2_000, 1, 28, 28)
    assert images.classes == 10
    assert images.train[1].bincount().min() > 900


def test_images_can_be_resized() -> None:
    images = load_images("digits", image_size=4)
    assert images.train[0].shape[1:] == (1, 4, 4)


def test_vendored_files_are_described_with_their_checksums() -> None:
    folder = Path(vendored.__file__).parent
    readme = (folder / "README.md").read_text()
    assert {file.name for file in folder.glob("*.xz")} == set(vendored.SHA256)
    for name, sha256 in vendored.SHA256.items():
        assert f"{sha256}  {name}" in readme


def test_damaged_vendored_file_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(vendored.SHA256, "moby_dick.txt.xz", "0" * 64)
    with pytest.raises(
        DataCorruptError,
        match=r"moby_dick\.txt\.xz is damaged: its SHA-256 is 3239f5dc.*, not 0000",
    ):
        vendored.read_vendored("moby_dick.txt.xz")


def test_data_directory_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUITE_DATA", "/somewhere")
    assert data_directory() == Path("/somewhere")
    monkeypatch.delenv("SUITE_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert data_directory() == Path("/cache/suite/data")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert data_directory() == Path.home() / ".cache" / "suite" / "data"


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10"])
@pytest.mark.usefixtures("empty_directory")
def test_absent_set_names_the_command_that_brings_it(name: str) -> None:
    with pytest.raises(
        DataMissingError, match=f"bring it with: python scripts/fetch_data.py {name}$"
    ) as caught:
        MLP(data=name)
    assert isinstance(caught.value, FileNotFoundError)


def write_idx(path: Path, array: np.ndarray) -> str:
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(header + array.tobytes())
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_idx_files_are_read_and_checked(
    empty_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = empty_directory / "MNIST" / "raw"
    images, labels = (
        np.arange(24, dtype=np.uint8).reshape(2, 3, 4),
        np.array([7, 1], dtype=np.uint8),
    )
    arrays = [images, labels, images[:1], labels[:1]]
    names = list(full.IDX_SHA256["mnist"])
    sums = {
        name: write_idx(folder / name, array) for name, array in zip(names, arrays, strict=True)
    }
    with pytest.raises(DataCorruptError, match="train-images-idx3-ubyte is damaged"):
        full.read_idx_set("mnist")
    monkeypatch.setitem(full.IDX_SHA256, "mnist", sums)
    train, test = full.read_idx_set("mnist")
    assert torch.equal(train[0], torch.from_numpy(images)[:, None])
    assert train[1].tolist() == [7, 1]
    assert len(test[0]) == 1


def test_torchvision_can_be_imported_beside_any_torch() -> None:
    assert callable(torchvision_datasets().CIFAR10)
    assert torchvision_datasets() is torchvision_datasets()


def test_image_folder_with_two_parts(tmp_path: Path) -> None:
    for part, count in (("train", 3), ("test", 2)):
        for number in range(count):
            draw(tmp_path / part / "cat" / f"{number}.png", 10 + number)
            draw(tmp_path / part / "dog" / f"{number}.png", 200 + number)
    (tmp_path / "train" / "cat" / "notes.txt").write_text("not an image")
    images = load_images(str(tmp_path))
    assert images.train[0].shape == (6, 3, 6, 6)
    assert images.train[0][:, 0, 0, 0].tolist() == [10, 11, 12, 200, 201, 202]
    assert images.train[1].tolist() == [0, 0, 0, 1, 1, 1]
    assert images.test[1].tolist() == [0, 0, 1, 1]
    task = MLP(data=str(tmp_path), val_size=2, hidden=[4])
    assert task.model(0)(task.splits["train"][0]).shape == (4, 2)


def test_image_folder_without_parts_keeps_a_sixth_for_testing(tmp_path: Path) -> None:
    for number in range(6):
        draw(tmp_path / "a" / f"{number}.png", number, mode="L")
        draw(tmp_path / "b" / f"{number}.png", 100 + number, mode="L")
    images = load_images(str(tmp_path))
    shades = [*images.train[0][:, 0, 0, 0].tolist(), *images.test[0][:, 0, 0, 0].tolist()]
    assert images.train[0].shape == (10, 1, 6, 6)
    assert sorted(shades) == [*range(6), *range(100, 106)]


def test_images_of_different_sizes_need_a_common_one(tmp_path: Path) -> None:
    for part in ("train", "test"):
        draw(tmp_path / part / "a" / "0.png", 10, size=6)
        draw(tmp_path / part / "b" / "0.png", 20, size=8)
    with pytest.raises(
        ValueError,
        match=r"image_size must be given when the images differ in size, got null; see .*0\.png",
    ):
        load_images(str(tmp_path))
    assert load_images(str(tmp_path), image_size=5).train[0].shape == (2, 3, 5, 5)


def test_image_folder_must_hold_images_and_the_same_classes(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="data must hold a folder of images for every class, got "):
        load_images(str(tmp_path))
    draw(tmp_path / "train" / "a" / "0.png", 1)
    draw(tmp_path / "test" / "b" / "0.png", 1)
    with pytest.raises(ValueError, match="data must have the same classes in train and test, got "):
        load_images(str(tmp_path))


def a_set(present: list[str], *sources: fetch.Source) -> fetch.Fetchable:
    def check() -> None:
        if not present:
            raise DataMissingError("made_up")

    return fetch.Fetchable("a made-up set", check, sources)


def refuse() -> None:
    raise OSError("no way\nthrough")


@pytest.mark.usefixtures("empty_directory")
def test_fetch_goes_on_to_the_next_source(monkeypatch: pytest.MonkeyPatch) -> None:
    present: list[str] = []
    sources = (fetch.Source("first", refuse), fetch.Source("second", lambda: present.append("it")))
    monkeypatch.setitem(fetch.FETCHABLE, "made_up", a_set(present, *sources))
    assert fetch.fetch("made_up") == "second"
    assert fetch.fetch("made_up") == "already there"


@pytest.mark.usefixtures("empty_directory")
def test_fetch_reports_every_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    sources = (fetch.Source("first", refuse), fetch.Source("second", lambda: None))
    monkeypatch.setitem(fetch.FETCHABLE, "made_up", a_set([], *sources))
    with pytest.raises(
        fetch.FetchFailedError,
        match=r"could not bring made_up(.|\n)*first: no way through\n  second: the data",
    ):
        fetch.fetch("made_up")


def test_fetch_knows_its_names() -> None:
    with pytest.raises(
        ValueError,
        match="name must be one of fashion_mnist, mnist, cifar10, cmudict, got 'imagenet'",
    ):
        fetch.fetch("imagenet")

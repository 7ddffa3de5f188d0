"""`python -m utils.datasets split`: exact shares, reproducible lists."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from loopback import IMAGE, put

from utils.config.datasets import SplitConfig
from utils.core.errors import InputError
from utils.datasets.index.data_yaml import load_spec
from utils.datasets.index.labels import load_index
from utils.datasets.prepare.autosplit import split_indices
from utils.datasets.tools.split import run


@pytest.mark.parametrize(
    ("count", "shares", "sizes"),
    [
        (100, (0.9, 0.1, 0.0), [90, 10, 0]),
        (10, (8, 1, 1), [8, 1, 1]),
        (7, (0.5, 0.5), [4, 3]),
        (3, (0.9, 0.05, 0.05), [1, 1, 1]),
        (1, (0.9, 0.1), [1, 0]),
        (0, (0.9, 0.1), [0, 0]),
    ],
)
def test_exact_sizes(count: int, shares: tuple[float, ...], sizes: list[int]) -> None:
    groups = split_indices(count, shares, seed=3)
    assert [len(group) for group in groups] == sizes
    assert sorted(np.concatenate(groups).tolist()) == list(range(count))


def test_seed() -> None:
    assert [g.tolist() for g in split_indices(50, (1, 1), 4)] == [g.tolist() for g in split_indices(50, (1, 1), 4)]
    assert split_indices(50, (1, 1), 4)[0].tolist() != split_indices(50, (1, 1), 5)[0].tolist()


@pytest.mark.parametrize("shares", [(0.0, 0.0), (-1, 2), (float("nan"), 1)])
def test_invalid_shares(shares: tuple[float, ...]) -> None:
    with pytest.raises(InputError, match="must be 0 or more, and one of them above 0"):
        split_indices(5, shares, 0)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Twenty images in two folders, half of them with labels."""
    for number in range(20):
        place = f"{'a' if number < 7 else 'b'}/{number:02d}"
        put(tmp_path / "set" / "images" / f"{place}.jpg", IMAGE)
        if number % 2:
            put(tmp_path / "set" / "labels" / f"{place}.txt", b"0 .5 .5 .2 .2\n")
    return tmp_path / "set" / "images"


def split(*flags: object) -> dict[str, int]:
    return run(SplitConfig.from_args([str(flag) for flag in flags]))


def test_lists_for_a_data_yaml(images: Path) -> None:
    assert split("--images", images, "--shares", 0.7, 0.2, 0.1) == {"train": 14, "val": 4, "test": 2}
    root = images.parent
    lists = [f"{key}: autosplit_{key}.txt" for key in ("train", "val", "test")]
    (root / "set.yaml").write_text("\n".join([*lists, "names: [cat]"]))
    spec = load_spec(root / "set.yaml")
    splits = [set(load_index(spec, key, require_labels=False).paths) for key in ("train", "val", "test")]
    assert [len(paths) for paths in splits] == [14, 4, 2]
    assert len(set.union(*splits)) == 20
    assert (root / "autosplit_train.txt").read_text().startswith("./images/a/0")


def test_annotated_only_and_out(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "lists"
    assert split("--images", images, "--annotated-only", "--out", out) == {"train": 9, "val": 1}
    assert not (out / "autosplit_test.txt").exists()
    lines = (out / "autosplit_train.txt").read_text().splitlines()
    assert all(Path(line).is_absolute() and int(Path(line).stem) % 2 for line in lines)


def test_existing_lists_are_not_overwritten(images: Path) -> None:
    split("--images", images, "--shares", 1, 1, 1)
    before = (images.parent / "autosplit_val.txt").read_text()
    with pytest.raises(InputError, match=r"autosplit_train\.txt.* already exists; replace with --exist-ok"):
        split("--images", images, "--seed", 1)
    assert (images.parent / "autosplit_val.txt").read_text() == before
    assert split("--images", images, "--seed", 1, "--exist-ok") == {"train": 18, "val": 2}
    assert not (images.parent / "autosplit_test.txt").exists()  # it would overlap with the new lists


def test_invalid_shares_keep_the_existing_lists(images: Path) -> None:
    split("--images", images)
    with pytest.raises(InputError, match=r"shares 0\.0 0\.0: must be 0 or more, and one of them above 0"):
        split("--images", images, "--shares", 0, 0, "--exist-ok")
    assert (images.parent / "autosplit_train.txt").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--images", "{}/none"), "no such folder or list file"),
        (("--images", "{}/labels"), "no images in it"),
        (("--images", "{}/images/a/../../images/c", "--annotated-only"), "no such folder"),
        (("--images", "{}/images", "--shares", "1", "1", "1", "1"), "pass up to three"),
        (("--images", "{}/images", "--out", "{}/labels/b/07.txt/x"), "--out .*: cannot be created"),
    ],
)
def test_one_line_messages(images: Path, flags: tuple[str, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        split(*(flag.format(images.parent) for flag in flags))


@pytest.mark.parametrize("name", ["caf\udce9.jpg", "two\nlines.jpg"])
def test_lists_are_kept_if_an_image_cannot_be_listed(name: str, images: Path, tmp_path: Path) -> None:
    config = SplitConfig(images=str(images), out=str(tmp_path), exist_ok=True)
    run(config)
    lists = {file: file.read_bytes() for file in tmp_path.glob("autosplit_*.txt")}
    put(images / name, IMAGE)
    with pytest.raises(InputError, match=r"cannot list .*: not UTF-8 or with control characters; rename the image"):
        run(config)
    assert {file: file.read_bytes() for file in tmp_path.glob("autosplit_*.txt")} == lists

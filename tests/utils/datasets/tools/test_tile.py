from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from utils.config.datasets import TileConfig
from utils.core.errors import InputError
from utils.datasets.index.data_yaml import load_spec
from utils.datasets.index.labels import load_index
from utils.datasets.tools import tile
from utils.imaging.read import read_image


@pytest.fixture
def large_set(tmp_path: Path) -> Path:
    """Two images of 300 x 400 pixels: three gray squares, and none."""
    rng = np.random.default_rng(0)
    for folder in ("images/train", "labels/train"):
        (tmp_path / "set" / folder).mkdir(parents=True)
    frame = rng.integers(0, 60, (300, 400, 3), dtype=np.uint8)
    lines = []
    for x, y in ((20, 20), (180, 90), (330, 240)):
        frame[y : y + 40, x : x + 40] = 200
        lines.append(f"0 {(x + 20) / 400} {(y + 20) / 300} 0.1 {40 / 300}\n")
    cv2.imwrite(str(tmp_path / "set/images/train/a.png"), frame)
    cv2.imwrite(str(tmp_path / "set/images/train/b.png"), frame // 4)
    (tmp_path / "set/labels/train/a.txt").write_text("".join(lines))
    (tmp_path / "set/labels/train/b.txt").write_text("")
    content = {"path": ".", "train": "images/train", "val": "images/train", "names": {0: "square"}}
    (tmp_path / "set/data.yaml").write_text(yaml.safe_dump(content))
    return tmp_path / "set/data.yaml"


def test_boxes_are_where_the_pixels_are(large_set: Path, tmp_path: Path) -> None:
    counts = tile.run(
        TileConfig.from_kwargs(data=str(large_set), out=str(tmp_path / "out"), tile=128, tile_overlap=0.25)
    )
    index = load_index(load_spec(tmp_path / "out/data.yaml"), "train")
    assert len(index) == counts["train"] > 3
    for i, path in enumerate(index.paths):
        frame = read_image(path)
        assert frame.shape == (128, 128, 3)
        _, boxes, _ = index.labels(i)
        bright = frame[..., 0] == 200
        covered = np.zeros_like(bright)
        for x, y, w, h in boxes * 128:
            x1, y1, x2, y2 = np.rint([x - w / 2, y - h / 2, x + w / 2, y + h / 2]).astype(int)
            covered[y1:y2, x1:x2] = True
            assert bright[y1:y2, x1:x2].all()
        assert (bright & ~covered).sum() < 0.3 * 40 * 40  # what is less than the share of an object
    empty = int((np.diff(index.offsets) == 0).sum())
    assert empty <= len(index) - empty


def test_folder_must_be_new(large_set: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not empty"):
        tile.run(TileConfig.from_kwargs(data=str(large_set), out=str(large_set.parent)))

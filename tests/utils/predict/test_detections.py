"""The results object: every form of the boxes, images, files and tables; values worked out by hand."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

import models.common
from utils.core.errors import InputError
from utils.core.timing import Profile
from utils.predict.detections import Detections, make_output_names

NAMES = {0: "person", 5: "bus", 2: "tie/box"}
FIRST = [[10, 20, 50, 80, 0.9, 0], [0, 0, 100, 40, 0.75, 5], [12, 22, 52, 82, 0.5, 0]]  # in 100 x 200 (h, w)


def detections() -> Detections:
    ims = [np.full((100, 200, 3), (10, 20, 200), np.uint8), np.full((50, 40, 3), 60, np.uint8)]
    pred = [torch.tensor(FIRST), torch.zeros(0, 6)]
    return Detections(ims, pred, ["000123.jpg", "image1.jpg"], (0.002, 0.04, 0.006), NAMES, (2, 3, 320, 640))


def test_boxes_in_every_form() -> None:
    results = detections()
    assert (results.n, len(results), results.s, results.t) == (2, 2, (2, 3, 320, 640), pytest.approx((1, 20, 3)))
    assert results.xyxy[0].tolist() == results.pred[0].tolist() == torch.tensor(FIRST).tolist()
    assert results.xywh[0][0].tolist() == pytest.approx([30, 50, 40, 60, 0.9, 0])
    assert results.xyxyn[0][0].tolist() == pytest.approx([0.05, 0.2, 0.25, 0.8, 0.9, 0])
    assert results.xywhn[0][1].tolist() == pytest.approx([0.25, 0.2, 0.5, 0.4, 0.75, 5])
    assert [rows.shape for rows in (*results.xywh, *results.xyxyn, *results.xywhn)] == [(3, 6), (0, 6)] * 3


def test_text(capsys: pytest.CaptureFixture[str]) -> None:
    results = detections()
    results.print()
    lines = [
        "image 1/2: 100x200 2 persons, 1 bus",
        "image 2/2: 50x40 (no detections)",
        "Speed: 1.0ms pre-process, 20.0ms inference, 3.0ms NMS per image at shape (2, 3, 320, 640)",
    ]
    assert capsys.readouterr().out.splitlines() == str(results).splitlines() == lines
    assert repr(results).splitlines() == ["Detections", *lines]


@pytest.mark.parametrize(("encoding", "name"), [("ascii", r"caf\xe9 \udcff"), ("utf-8", r"café \udcff")])
def test_text_on_any_terminal(encoding: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    results, output = detections(), io.BytesIO()
    results.names[5] = "café \udcff"
    with io.TextIOWrapper(output, encoding) as terminal:
        monkeypatch.setattr("sys.stdout", terminal)
        results.print()
        terminal.flush()
        assert f"2 persons, 1 {name}" in output.getvalue().decode(encoding)


def test_tables() -> None:
    results = detections()
    tables = results.pandas()
    corners = ["xmin", "ymin", "xmax", "ymax", "confidence", "class", "name"]
    centers = ["xcenter", "ycenter", "width", "height", "confidence", "class", "name"]
    for form, columns in (("xyxy", corners), ("xyxyn", corners), ("xywh", centers), ("xywhn", centers)):
        both = getattr(tables, form)
        assert [list(table.columns) for table in both] == [columns] * 2
        assert [len(table) for table in both] == [3, 0]
        assert torch.is_tensor(getattr(results, form)[0])  # the original keeps its tensors
    row = tables.xyxy[0].iloc[1]
    assert row[["xmin", "ymin", "xmax", "ymax"]].tolist() == [0, 0, 100, 40]
    assert (row["confidence"], row["class"], row["name"]) == (0.75, 5, "bus")
    assert tables.xyxy[0]["class"].dtype.kind == "i"
    assert tables.xywhn[0].iloc[1]["xcenter"] == pytest.approx(0.25)
    assert json.loads(tables.xyxy[0].to_json(orient="records"))[0]["name"] == "person"


def test_json() -> None:
    records = json.loads(detections().to_json())
    assert len(records) == 3
    assert records[1] == {
        "image": 0, "file": "000123.jpg", "xmin": 0, "ymin": 0, "xmax": 100, "ymax": 40, "confidence": 0.75,
        "class": 5, "name": "bus",
    }  # fmt: skip


def test_coco() -> None:
    assert detections().to_coco()[:2] == [
        {"image_id": 123, "category_id": 0, "bbox": [10, 20, 40, 60], "score": 0.9},
        {"image_id": 123, "category_id": 5, "bbox": [0, 0, 100, 40], "score": 0.75},
    ]


def test_supervision() -> None:
    supervision = pytest.importorskip("supervision")
    first, second = detections().to_supervision()
    np.testing.assert_allclose(first.xyxy, np.array(FIRST)[:, :4])
    np.testing.assert_allclose(first.confidence, [0.9, 0.75, 0.5])
    assert first.class_id.tolist() == [0, 5, 0]
    assert first["class_name"].tolist() == ["person", "bus", "person"]
    assert len(second) == 0
    assert len(first[first.class_id == 0].with_nms(0.5)) == 1
    np.testing.assert_allclose(supervision.Detections.from_yolov5(detections()).xyxy, first.xyxy)
    annotated = supervision.BoxAnnotator().annotate(detections().ims[0].copy(), first)
    assert (annotated != detections().ims[0]).any()


def test_supervision_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(InputError, match="pip install supervision"):
        detections().to_supervision()


def test_one_object_per_image() -> None:
    parts = detections().tolist()
    assert [(part.n, len(part.pred), part.files) for part in parts] == [(1, 1, ["000123.jpg"]), (1, 1, ["image1.jpg"])]
    assert parts[0].xywh[0][0].tolist() == pytest.approx([30, 50, 40, 60, 0.9, 0])
    assert parts[0].t == pytest.approx((1, 20, 3))


def test_render_draws_in_rgb_into_the_arrays_of_the_caller() -> None:
    results = detections()
    inputs, before = list(results.ims), [im.copy() for im in results.ims]
    drawn = results.render()
    assert results.ims is results.imgs is drawn
    assert all(a is b for a, b in zip(drawn, inputs, strict=True))
    assert (drawn[0] != before[0]).any()
    assert (drawn[0][95, 150] == (10, 20, 200)).all()  # far from the boxes: still RGB
    np.testing.assert_array_equal(drawn[1], before[1])
    once = drawn[0].copy()
    np.testing.assert_array_equal(results.render()[0], once)  # not drawn twice
    assert (detections().render(labels=False)[0] != once).any()


def test_render_replaces_images_that_are_read_only() -> None:
    results = detections()
    frozen = results.ims[0]
    frozen.setflags(write=False)
    drawn = results.render()
    assert drawn[0] is not frozen
    assert (frozen == (10, 20, 200)).all()
    np.testing.assert_array_equal(drawn[0], detections().render()[0])


def test_times_are_timers() -> None:
    results = detections()
    assert [(type(timer), timer.t, timer.dt) for timer in results.times] == [
        (Profile, 0.002, 0.002), (Profile, 0.04, 0.04), (Profile, 0.006, 0.006),
    ]  # fmt: skip
    ims = [np.zeros((9, 9, 3), np.uint8)] * 2
    foreign = SimpleNamespace(t=0.5)  # a timer of another program
    measured = Detections(ims, [torch.zeros(0, 6)] * 2, ["a.jpg", "b.jpg"], times=(Profile(0.1), foreign, 0))
    assert measured.t == pytest.approx((50, 250, 0))
    assert [timer.t for timer in measured.tolist()[1].times] == pytest.approx([0.05, 0.25, 0])


def test_public_address() -> None:
    """Programs such as SAHI recognize the object by its module."""
    assert f"{Detections.__module__}.{Detections.__qualname__}" == "models.common.Detections"
    assert models.common.Detections is Detections


def test_save_writes_rgb_images_into_numbered_folders(tmp_path: Path) -> None:
    results = detections()
    assert results.save(save_dir=tmp_path / "exp") == tmp_path / "exp"
    assert results.save(save_dir=tmp_path / "exp") == tmp_path / "exp2"
    assert results.save(save_dir=str(tmp_path / "exp"), exist_ok=True, labels=False) == tmp_path / "exp"
    assert sorted(p.name for p in (tmp_path / "exp").iterdir()) == ["000123.jpg", "image1.jpg"]
    saved = cv2.imread(str(tmp_path / "exp2" / "000123.jpg"))
    drawn = cv2.imencode(".jpg", np.ascontiguousarray(results.render()[0][..., ::-1]))[1]
    np.testing.assert_array_equal(saved, cv2.imdecode(drawn, cv2.IMREAD_COLOR))
    np.testing.assert_allclose(saved[95, 150].astype(int), (200, 20, 10), atol=6)  # BGR


def test_save_into_a_folder_by_position(tmp_path: Path) -> None:
    """As programs for releases up to 6.0 call it."""
    results = detections()
    assert results.save(tmp_path / "a") == results.save(str(tmp_path / "a")) == tmp_path / "a"
    assert results.save(False, tmp_path / "b") == tmp_path / "b"
    drawn, plain = (cv2.imread(str(tmp_path / folder / "000123.jpg")) for folder in "ab")
    assert not np.array_equal(drawn, plain)  # labels


def test_crop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    results = detections()
    results.render()
    crops = results.crop()
    assert [crop["label"] for crop in crops] == ["person 0.50", "bus 0.75", "person 0.90"]
    assert [float(v) for v in crops[2]["box"]] == [10, 20, 50, 80]
    assert (float(crops[1]["conf"]), int(crops[1]["cls"])) == (0.75, 5)
    # 40 x 60 around (30, 50): half sides 25.4 and 35.6 -> 4.6..55.4, 14.4..85.6; clean pixels, BGR
    assert crops[2]["im"].shape == (71, 51, 3)
    assert (crops[2]["im"] == (200, 20, 10)).all()
    folder = tmp_path / "runs/detect/exp/crops"
    assert sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.jpg")) == [
        "bus/000123.jpg", "person/000123.jpg", "person/0001232.jpg",
    ]  # fmt: skip
    np.testing.assert_allclose(cv2.imread(str(folder / "bus/000123.jpg"))[5, 5].astype(int), (200, 20, 10), atol=6)
    before = sorted(tmp_path.rglob("*"))
    assert len(results.crop(save=False)) == 3
    assert sorted(tmp_path.rglob("*")) == before


def test_display_of_older_releases(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = detections()
    assert results.display(pprint=True) is None
    assert capsys.readouterr().out.startswith("image 1/2: 100x200 2 persons, 1 bus")
    crops = results.display(save=True, crop=True, render=True, save_dir=tmp_path)
    assert crops is not None and [crop["label"] for crop in crops] == ["person 0.50", "bus 0.75", "person 0.90"]
    saved = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.jpg")}
    assert {"000123.jpg", "image1.jpg", "crops/bus/000123.jpg", "crops/person/0001232.jpg"} <= saved
    assert (results.ims[0] != (10, 20, 200)).any()
    assert results.display() is None


def test_class_name_cannot_escape_the_folder(tmp_path: Path) -> None:
    rows = torch.tensor([[1, 1, 5, 5, 0.5, 0.0]])
    results = Detections([np.zeros((9, 9, 3), np.uint8)], [rows], ["a.jpg"], names=["../x"])
    results.crop(save_dir=tmp_path / "exp")
    assert [p.relative_to(tmp_path / "exp/crops").as_posix() for p in tmp_path.rglob("*.jpg")] == ["_x/a.jpg"]


def test_show_opens_the_image_viewer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mock of the viewer."""
    shown: list[Any] = []
    monkeypatch.setattr(Image.Image, "show", lambda image, title=None: shown.append((title, np.asarray(image))))
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    detections().show()
    assert [title for title, _ in shown] == ["000123.jpg", "image1.jpg"]
    np.testing.assert_array_equal(shown[0][1], detections().render()[0])


def test_show_in_a_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mock of the notebook's shell."""
    shown: list[Any] = []
    shell = type("ZMQInteractiveShell", (), {})()
    notebook = SimpleNamespace(get_ipython=lambda: shell, display=SimpleNamespace(display=shown.append))
    monkeypatch.setitem(sys.modules, "IPython", notebook)  # type: ignore[arg-type]
    detections().show(labels=False)
    assert [image.size for image in shown] == [(200, 100), (40, 50)]


def test_images_of_other_channel_counts() -> None:
    ims = [np.zeros((20, 30, 1), np.uint8), np.zeros((20, 30, 5), np.uint8)]
    rows = torch.tensor([[1, 1, 9, 9, 0.5, 7.0]])
    results = Detections(ims, [rows, rows], ["a.jpg", "b.jpg"])
    assert [im.shape for im in results.render()] == [(20, 30, 3)] * 2
    assert results.pandas().xyxy[0]["name"].tolist() == ["7"]  # no name is known


def test_output_names() -> None:
    names = ["a/bus.png", "b/bus.jpg", "bus_2.jpg", "image3", "bus.v2.tif"]
    assert make_output_names(names) == ["bus.jpg", "bus_2.jpg", "bus_2_2.jpg", "image3.jpg", "bus.v2.jpg"]

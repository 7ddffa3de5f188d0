"""Model summary: layer table, parameters, FLOPs, and the command line of models/yolo.py."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path
from time import perf_counter
from typing import Any

import pytest
import torch
from torch import nn

from models.graph import list_model_yamls
from models.summary import (
    build_layer_table,
    count_flops,
    format_layer_table,
    format_model_summary,
    format_parameter_table,
    summarize_model,
)
from models.yolo import ClassificationModel, DetectionModel
from utils.core.errors import InputError
from utils.evaluate import summary_cli

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def small() -> DetectionModel:
    with torch.device("meta"):
        return DetectionModel("yolov5s.yaml")


def graph(rows: list[Any], **other: Any) -> DetectionModel:
    return DetectionModel({"nc": 1, "backbone": rows, "head": [], **other})


def test_summary_line_of_yolov5s(small: DetectionModel) -> None:
    expected = "s: 214 layers, 7,235,389 parameters, 7,235,389 gradients, 16.6 GFLOPs at 640x640"
    assert summarize_model(small, name="s") == expected


def test_flops_known_values() -> None:
    """A 3x3 convolution 3 -> 8 on 4x4 cells: 2 * 27 * 8 * 16; norm and activation: 4 * 8 * 16 each."""
    model = graph([[-1, 1, "Conv", [8, 3, 1]], [-1, 1, "nn.Conv2d", [8, 1]], [-1, 1, "nn.Upsample", [None, 2]]])
    table = build_layer_table(model, (4, 4))
    assert [row.flops for row in table] == [2 * 27 * 8 * 16 + 2 * 4 * 8 * 16, 2 * 8 * 8 * 16, 0]
    assert [row.shape for row in table] == [(8, 4, 4), (8, 4, 4), (8, 8, 8)]
    assert [row.parameters for row in table] == [27 * 8 + 2 * 8, 8 * 8 + 8, 0]
    model.fuse()
    assert count_flops(model, (4, 4)) == 2 * 27 * 8 * 16 + 4 * 8 * 16 + 2 * 8 * 8 * 16


def test_counting_changes_nothing() -> None:
    model = graph([[-1, 1, "Conv", [8]]])
    before = {k: v.clone() for k, v in model.state_dict().items()}
    count_flops(model, (8, 8))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not any(m._forward_hooks for m in model.modules())
    assert model.training


def test_counting_in_evaluation_half_and_other_channels() -> None:
    model = graph([[-1, 1, "Conv", [8]]], ch=4).half().eval()
    assert count_flops(model, (2, 2)) == 2 * 4 * 8 * 4 + 2 * 4 * 8 * 4
    assert not model.training


def test_too_small_image_raises() -> None:
    model = graph([[-1, 1, "Conv", [8, 6, 2, 0]]])
    with pytest.raises(ValueError, match="does not accept an image of 3x5"):
        build_layer_table(model, (3, 5))
    assert "does not accept an image of 3x5" in summarize_model(model, (3, 5))


def test_layer_table_of_yolov5s(small: DetectionModel) -> None:
    table = build_layer_table(small)
    assert len(table) == 25
    assert (table[6].repeats, table[6].arguments, table[6].parameters) == (3, "[512]", 625152)
    assert table[24].sources == [17, 20, 23]
    lines = format_layer_table(table).splitlines()
    assert lines[0].split() == ["layer", "from", "n", "parameters", "GFLOPs", "output", "module", "arguments"]
    assert lines[1].split(maxsplit=7)[-1] == "[64, 6, 2, 2]"


def test_classifier_row_has_no_arguments() -> None:
    with torch.device("meta"):
        model = ClassificationModel("yolov5n.yaml", nc=10)
    last = build_layer_table(model, (224, 224))[-1]
    assert (last.kind, last.arguments, last.shape) == ("models.common.Classify", "", (10,))


def test_parameter_table_known_values() -> None:
    layer = nn.Linear(2, 1)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 4.0]]))
        layer.bias.fill_(3)
    layer.bias.requires_grad_(False)
    lines = [line.split() for line in format_parameter_table(layer).splitlines()]
    assert lines[0] == ["layer", "name", "gradient", "parameters", "shape", "mean", "std"]
    assert lines[1] == ["0", "weight", "True", "2", "1x2", "2.5", "2.12"]
    assert lines[2] == ["1", "bias", "False", "1", "1", "3", "0"]


def test_info_logs_the_line(small: DetectionModel, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="openyolov5"):
        small.info(img_size=(320, 640))
    assert caplog.messages == [format_model_summary(small, (320, 640), name="yolov5s.yaml")]
    assert "8.3 GFLOPs at 640x320" in caplog.text


def test_command_prints_table_and_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert summary_cli.main(["--cfg", "yolov5n.yaml", "--verbose"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + 25 + 1 + 177 + 1
    assert lines[-1].startswith("yolov5n.yaml: 214 layers, 1,872,157 parameters")


def test_command_builds_every_graph(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = [
        path for path in list_model_yamls() if path.stem in ("yolov5n", "yolov3-tiny", "yolov5n-seg", "yolov5s-v1")
    ]
    monkeypatch.setattr("models.graph.list_model_yamls", lambda: chosen)
    assert summary_cli.main(["--test"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 4


def test_command_reports_a_broken_graph(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text("{nc: 1, backbone: [[-1, 1, Conf, [8]]], head: []}")
    monkeypatch.setattr("models.graph.MODELS_DIR", tmp_path)
    monkeypatch.setattr("models.graph.list_model_yamls", lambda: [broken])
    assert summary_cli.main(["--test"]) == 1
    assert "broken.yaml: FAILED: broken.yaml: row 0: unknown layer 'Conf'; near: Conv" in capsys.readouterr().out


def test_command_prints_timings(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(summary_cli, "IMAGE_SIZE", 64)
    assert summary_cli.main(["--cfg", "yolov5n.yaml", "--profile", "--line-profile", "--device", "cpu"]) == 0
    assert "1x64x64: forward" in capsys.readouterr().out
    with pytest.raises(InputError, match="--batch-size 0"):
        summary_cli.main(["--batch-size", "0"])


def test_help_does_not_import_torch() -> None:
    started = perf_counter()
    done = subprocess.run(
        [sys.executable, "-X", "importtime", ROOT / "models" / "yolo.py", "--help"], capture_output=True, text=True
    )
    assert done.returncode == 0
    assert "--line-profile" in done.stdout
    assert "torch" not in {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert perf_counter() - started < 5  # 0.1 s on an idle machine


def test_script_reports_an_unknown_name_in_one_line() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "models" / "yolo.py", "--cfg", "yolov5q"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.splitlines() == ["error: yolov5q: no such model YAML; near: yolov5x, yolov5s, yolov5n"]

"""python -m utils.prune on a tiny network: the checkpoint and the printed table."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_jobs import TINY_GRAPH

from models.checkpoint import save_checkpoint, strip_checkpoint
from models.pruning import compute_sparsity
from models.yolo import DetectionModel
from utils import prune
from utils.core.errors import InputError
from utils.tasks.networks import load_checkpoint


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    model = DetectionModel(TINY_GRAPH)
    file = tmp_path / "tiny mödel.pt"
    content = {"task": "detect", "yaml": model.yaml, "names": {0: "square", 1: "disc"}, "model": model.state_dict()}
    save_checkpoint(file, content)
    return strip_checkpoint(file)


def test_table_before_and_after_pruning(weights: Path, tiny_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prune.main(
        ["--weights", str(weights), "--amount", "0.5", "--data", str(tiny_data), "--img", "64", "--workers", "0"]
    )
    pruned = load_checkpoint(weights.with_name("tiny mödel-pruned.pt"))
    assert pruned.raw["pruned"] == 0.5
    assert pruned.names == {0: "square", 1: "disc"}
    assert 0.4 < compute_sparsity(pruned.model) < 0.52
    lines = capsys.readouterr().out.splitlines()
    table = {line[:16].strip(): line[16:].split() for line in lines[:-1]}
    assert list(table)[1:4] == ["zeros, %", "file, MB", "gzip, MB"]
    assert float(table["zeros, %"][1]) == pytest.approx(100 * compute_sparsity(pruned.model), rel=1e-3)
    assert float(table["gzip, MB"][1]) < float(table["gzip, MB"][0])
    assert "mAP_0.5:0.95" in table
    assert lines[-1].endswith("tiny mödel-pruned.pt")


def test_without_data_only_sizes_are_printed(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prune.main(["--weights", str(weights), "--output", str(tmp_path / "out/small.pt")])
    assert "mAP" not in capsys.readouterr().out
    assert (tmp_path / "out/small.pt").is_file()


def test_unusable_data_leaves_no_file(weights: Path) -> None:
    with pytest.raises(InputError, match=r"--data none\.yaml: no such file"):
        prune.main(["--weights", str(weights), "--data", "none.yaml"])
    assert [file.name for file in weights.parent.iterdir()] == [weights.name]


@pytest.mark.parametrize(
    ("flags", "text"),
    [(["--amount", "1"], "--amount 1: must be"), (["--output", "tiny mödel.pt"], "is the checkpoint itself")],
    ids=["all", "itself"],
)
def test_bad_input_is_reported(
    flags: list[str], text: str, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=text):
        prune.main(["--weights", str(weights), *flags])

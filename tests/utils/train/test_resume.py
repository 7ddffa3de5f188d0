from __future__ import annotations

import os
from pathlib import Path

import pytest

import train
from utils.config.train import TrainConfig
from utils.core.errors import InputError
from utils.train.resume import find_last_checkpoint, prepare_resumed_launch


def stored_run(root: Path, device: str, name: str = "exp") -> Path:
    """last.pt of a run that has its settings beside it."""
    last = root / "runs/train" / name / "weights/last.pt"
    last.parent.mkdir(parents=True)
    last.write_bytes(b"")
    (last.parent.parent / "opt.yaml").write_text(f"device: '{device}'\n")
    return last


def test_newest_last_checkpoint_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"no last\.pt below runs/"):
        find_last_checkpoint(True)
    os.utime(stored_run(tmp_path, "", "newer"), (2, 2))
    os.utime(stored_run(tmp_path, "", "exp"), (1, 1))
    assert find_last_checkpoint(True) == Path("runs/train/newer/weights/last.pt")


@pytest.mark.parametrize(("given", "expected"), [((), "cpu,cpu"), (("--device", "0"), "0"), (("--device", ""), "")])
def test_device_of_the_run_unless_another_is_given(given: tuple[str, ...], expected: str, tmp_path: Path) -> None:
    last = stored_run(tmp_path, "cpu,cpu")
    arguments = ["--resume", str(last), *given]
    assert prepare_resumed_launch(TrainConfig.from_args(arguments), arguments)[0] == expected


def test_settings_of_the_checkpoint_are_the_fallback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    last = stored_run(tmp_path, "")
    (last.parent.parent / "opt.yaml").unlink()
    monkeypatch.setattr("models.checkpoint.load_training_state", lambda path: {"opt": {"device": "0,1"}})
    assert prepare_resumed_launch(TrainConfig(resume=str(last)), [])[0] == "0,1"


def test_run_of_several_devices_is_launched_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All processes get the same checkpoint, through the arguments that torchrun passes on."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    launched: list[tuple[TrainConfig, list[str]]] = []

    def note(arguments: list[str], devices: list[str]) -> int:
        launched.append((TrainConfig.from_args(arguments), devices))
        return 0

    monkeypatch.setattr(train, "launch", note)
    stored_run(tmp_path, "cpu,cpu")
    assert train.main(["--resume", "--epochs", "9"]) == 0
    config, devices = launched[0]
    assert devices == ["cpu", "cpu"] and config.epochs == 9
    assert config.resume == str(Path("runs/train/exp/weights/last.pt"))

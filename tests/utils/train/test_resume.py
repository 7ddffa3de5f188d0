from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from interruptions import assert_same_run
from process_pairs import make_trainer, write_data

import train
from models.checkpoint import load_training_state
from utils.commands import train as commands
from utils.config.train import TrainConfig
from utils.core.errors import InputError
from utils.train.finish import finish
from utils.train.resume import find_last_checkpoint, merge_settings, prepare_resumed_launch
from utils.train.setup import build_trainer


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
    newer = tmp_path / "runs/train/newer/weights"
    (newer / "last2.pt").symlink_to("nowhere")
    os.mkfifo(newer / "last3.pt")
    assert find_last_checkpoint(True) == Path("runs/train/newer/weights/last.pt")


@pytest.mark.parametrize("name", ["", "loop", ".", "a\0b", "/dev/zero"])
def test_resume_of_what_is_no_file(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(InputError, match=r"--resume .*: there is no such file; name a last\.pt"):
        TrainConfig(resume=name).check()
        find_last_checkpoint(name)


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

    monkeypatch.setattr(commands, "launch", note)
    stored_run(tmp_path, "cpu,cpu")
    assert train.main(["--resume", "--epochs", "9"]) == 0
    config, devices = launched[0]
    assert devices == ["cpu", "cpu"] and config.epochs == 9
    assert config.resume == str(Path("runs/train/exp/weights/last.pt"))


# -- opt.yaml ---------------------------------------------------------------------------------------------------------

OWN = {"epochs": 3, "imgsz": 64, "resume": False, "hyp": "a.yaml", "device": "cpu"}
KNOWN = {*OWN, "patience"}


def merge(tmp_path: Path, content: bytes) -> dict[str, Any]:
    last = stored_run(tmp_path, "cpu")
    (last.parent.parent / "opt.yaml").write_bytes(content)
    return merge_settings(last, OWN, KNOWN)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        pytest.param(b"epochs: 5\n\xff", "opt.yaml:2: byte 0xff is not UTF-8", id="bad byte"),
        pytest.param(b"epochs: 5\na: [", "opt.yaml:2: not valid YAML", id="not YAML"),
        pytest.param(b"- epochs\n", "opt.yaml: list instead of settings", id="list"),
        pytest.param(b"epochs: !!bool x\n", "opt.yaml:1: not valid YAML: 'x' is not a valid bool", id="bad value"),
    ],
)
def test_damaged_settings_are_replaced_by_those_in_the_checkpoint(
    content: bytes, problem: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "openyolov5"):
        merged = merge(tmp_path, content)
    assert merged == {"epochs": 3, "imgsz": 64, "device": "cpu"}
    assert problem in caplog.text and "resuming with the settings in last.pt" in caplog.text
    assert len(caplog.records) == 1


def test_settings_that_differ_from_the_checkpoint_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "openyolov5"):
        merged = merge(tmp_path, b"epochs: 5\npatience: 9\nresume: last.pt\nhyp: {lr0: 1}\nepoch: 7\n")
    assert merged == {"epochs": 5, "imgsz": 64, "device": "cpu", "patience": 9}  # cut short: the rest as stored
    first, second = caplog.messages
    assert first.endswith("opt.yaml is used, with epochs 5 (3 in last.pt), 'patience' (not in last.pt)")
    assert second.endswith("opt.yaml: no such setting: 'epoch'; ignored")


def test_equal_settings_are_not_mentioned(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert merge(tmp_path, b"epochs: 3\nimgsz: 64\ndevice: cpu\n")["epochs"] == 3
    assert not caplog.text


def test_device_is_that_of_the_checkpoint_if_the_settings_are_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    last = stored_run(tmp_path, "cpu")
    (last.parent.parent / "opt.yaml").write_bytes(b"device: \xff")
    monkeypatch.setattr("models.checkpoint.load_training_state", lambda path: {"opt": {"device": "0,1"}})
    assert prepare_resumed_launch(TrainConfig(resume=str(last)), [])[0] == "0,1"


# -- runs without epochs to train -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    write_data(folder, "detect")
    return folder


@pytest.mark.parametrize("patience", [0, 1])
def test_run_killed_in_its_final_validation_repeats_it(patience: int, data: Path, tmp_path: Path) -> None:
    """The same after early stopping, which leaves epochs undone."""
    options = {"patience": patience, "epochs": 2 if patience == 0 else 9}
    whole = make_trainer(data, tmp_path / "whole", "detect", **options)
    expected = finish(whole, whole.fit())
    assert expected.epochs < 9
    make_trainer(data, tmp_path / "killed", "detect", **options).fit()  # and no finish
    folder = tmp_path / "killed/exp"
    for _ in range(2):  # also if it was finished
        resumed = build_trainer(TrainConfig.from_kwargs(resume=str(folder / "weights/last.pt")))
        result = finish(resumed, resumed.fit())
        assert (result.epochs, result.metrics) == (expected.epochs, expected.metrics)
    assert_same_run(folder, tmp_path / "whole/exp")
    first, second = (torch.load(tmp_path / run / "exp/weights/best.pt") for run in ("whole", "killed"))
    assert first["optimizer"] is None and second["optimizer"] is None  # stripped
    assert all(torch.equal(value, second["model"][key]) for key, value in first["model"].items())


def test_early_stopped_run_goes_on_with_more_patience(data: Path, tmp_path: Path) -> None:
    stopped = make_trainer(data, tmp_path, "detect", patience=1, epochs=9).fit()
    resumed = build_trainer(TrainConfig.from_kwargs(resume=str(stopped.last), patience=50, epochs=stopped.epochs + 1))
    assert resumed.fit().epochs == stopped.epochs + 1
    assert load_training_state(stopped.last)["epoch"] == stopped.epochs

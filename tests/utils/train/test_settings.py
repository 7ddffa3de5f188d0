from __future__ import annotations

from pathlib import Path

import pytest

from utils.config.train import TrainConfig
from utils.core.errors import InputError
from utils.train.run_lock import LOCK_FILE, run_locks
from utils.train.settings import build_stored_config, open_run_folder


def test_folder_of_a_new_run_is_made_and_locked(tmp_path: Path) -> None:
    config = TrainConfig(project=str(tmp_path), name="cfg", cfg="models/yolov5n.yaml")
    with run_locks():
        assert [open_run_folder(config, None).name for _ in range(2)] == ["yolov5n", "yolov5n2"]
        assert (tmp_path / "yolov5n2" / LOCK_FILE).exists()


def test_folder_of_a_resumed_run_is_that_of_its_checkpoint(tmp_path: Path) -> None:
    config = TrainConfig(project=str(tmp_path / "other"))
    (tmp_path / "mine/weights").mkdir(parents=True)
    with run_locks():
        assert open_run_folder(config, tmp_path / "mine/weights/last.pt") == tmp_path / "mine"
        assert open_run_folder(config, tmp_path / "copied.pt") == tmp_path / "other/exp"


def test_name_that_is_not_unicode_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a.udcff/exp': not valid UTF-8; choose another --project or --name"):
        open_run_folder(TrainConfig(project=f"{tmp_path}/a\udcff"), None)
    assert not list(tmp_path.iterdir())


def test_stored_settings_are_given_where_they_differ_from_the_defaults() -> None:
    config = build_stored_config(TrainConfig, {"epochs": 3, "device": 0, "imgsz": 640, "cache": None})
    assert (config.epochs, config.device, config.explicit) == (3, "0", {"epochs", "device"})


@pytest.mark.parametrize(
    ("name", "value"),
    [("epochs", "many"), ("epochs", [3]), ("data", ["a"]), ("project", {"a": 1}), ("rect", "yes"), ("amp", 3)],
)
def test_invalid_stored_setting_is_an_error(name: str, value: object) -> None:
    with pytest.raises(InputError, match=name):
        build_stored_config(TrainConfig, {name: value})

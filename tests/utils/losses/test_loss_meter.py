from __future__ import annotations

import pytest
import torch

from utils.core.errors import InputError
from utils.losses.meter import LossMeter


def test_meter_means_and_names() -> None:
    meter = LossMeter(("a", "b"))
    assert meter.read() == {"a": 0.0, "b": 0.0}
    meter.add({"x": torch.tensor(1.0), "y": torch.tensor(4.0)}, ["1.jpg"])
    meter.add({"x": torch.tensor(3.0), "y": torch.tensor(0.0)}, ["2.jpg"])
    assert meter.read() == {"a": 2.0, "b": 2.0}
    assert meter.unread == []


def test_meter_names_the_files_of_a_batch_with_infinite_loss() -> None:
    meter = LossMeter(("a",))
    meter.add({"a": torch.tensor(1.0)}, ["good.jpg"])
    meter.add({"a": torch.tensor(float("inf"))}, ["bad.jpg", "worse.jpg"])
    with pytest.raises(InputError, match=r"not finite on the batch of bad\.jpg, worse\.jpg"):
        meter.read()


def test_means_may_be_infinite() -> None:
    meter = LossMeter(("a",))
    meter.add({"a": torch.tensor(float("inf"))}, [])
    assert meter.gather_means() == {"a": float("inf")}


def test_steps_with_different_items_have_separate_means() -> None:
    meter = LossMeter(("box_loss", "sem_loss"))
    meter.add({"box": torch.tensor(1.0)}, [])
    meter.add({"box": torch.tensor(3.0)}, [])
    meter.add({"sem": torch.tensor(5.0)}, [])
    assert meter.gather_means() == {"box_loss": 2.0, "sem_loss": 5.0}

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.common import Classify
from models.graph import load_model_yaml
from utils import torch_utils
from utils.core import device as devices
from utils.core.errors import InputError
from utils.core.logging import LOGGER
from utils.tasks.networks import build_model


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level(logging.INFO, LOGGER.name):
        yield caplog


def make_detector() -> Any:
    return build_model({**load_model_yaml("yolov5n"), "width_multiple": 0.125, "nc": 2})


class Small(nn.Module):
    """A convolution, a norm, an activation and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.act, self.linear = nn.ReLU(), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.act(self.norm(self.conv(x))).mean(dim=(2, 3)))


# -- devices, ranks, time ---------------------------------------------------------------------------------------------


def test_constants() -> None:
    assert (torch_utils.LOCAL_RANK, torch_utils.RANK, torch_utils.WORLD_SIZE) == (-1, -1, 1)
    assert torch_utils.LOGGER is LOGGER
    assert torch_utils.device_count() == torch.cuda.device_count()


@pytest.mark.parametrize("value", ["cpu", torch.device("cpu"), "CPU", " cpu "])
def test_select_device(value: Any, log: pytest.LogCaptureFixture) -> None:
    assert torch_utils.select_device(value, batch_size=4) == torch.device("cpu")
    assert torch_utils.select_device(value, newline=False) == torch.device("cpu")
    assert log.messages[0] == log.messages[1] + "\n"
    assert "CPU (" in log.messages[0]


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without CUDA")
def test_select_device_without_cuda() -> None:
    assert torch_utils.select_device(None).type == torch_utils.select_device().type == "cpu"
    with pytest.raises(InputError, match="0 CUDA devices are visible"):
        torch_utils.select_device(0)


def test_select_several_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "select_device", lambda name: torch.device("cuda", int(name)))
    monkeypatch.setattr(devices, "describe_device", str)
    assert torch_utils.select_device("1, 2", batch_size=8) == torch.device("cuda:1")
    with pytest.raises(InputError, match="batch size 9: not a multiple of the 2 devices"):
        torch_utils.select_device("0,1", batch_size=9)


@pytest.mark.parametrize(("local_rank", "order"), [(-1, ["body"]), (0, ["body", "barrier"]), (1, ["barrier", "body"])])
def test_torch_distributed_zero_first(local_rank: int, order: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    monkeypatch.setattr(torch.distributed, "barrier", lambda *_, **__: events.append("barrier"))
    with torch_utils.torch_distributed_zero_first(local_rank):
        events.append("body")
    assert events == order


def test_time_is_that_of_the_system() -> None:
    before = time.time()
    assert before <= torch_utils.time_sync() <= torch_utils.time_synchronized() <= time.time()


def test_smart_inference_mode() -> None:
    @torch_utils.smart_inference_mode()
    def run(x: Tensor) -> Tensor:
        return network(x)

    @torch_utils.smart_inference_mode(torch_1_9=False)
    def run_without_gradients(x: Tensor) -> Tensor:
        return network(x)

    network = nn.Conv2d(1, 1, 1)
    assert run(torch.zeros(1, 1, 2, 2)).is_inference()
    assert not run_without_gradients(torch.zeros(1, 1, 2, 2)).requires_grad


def test_init_torch_seeds() -> None:
    torch_utils.init_torch_seeds(3)
    first = torch.rand(2)
    torch_utils.init_torch_seeds(3)
    assert torch.equal(first, torch.rand(2))


def test_parallel_wrappers(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Small()
    wrapped = nn.DataParallel(network)
    assert torch_utils.is_parallel(wrapped)
    assert not torch_utils.is_parallel(network)
    assert torch_utils.de_parallel(wrapped) is torch_utils.de_parallel(network) is network
    calls = []
    monkeypatch.setattr(nn.parallel, "DistributedDataParallel", lambda model, **options: calls.append((model, options)))
    torch_utils.smart_DDP(network)
    assert calls == [(network, {"device_ids": None, "static_graph": True})]


# -- networks ---------------------------------------------------------------------------------------------------------


def test_initialize_weights() -> None:
    network = Small()
    before = network.conv.weight.clone()
    torch_utils.initialize_weights(network)
    assert (network.norm.eps, network.norm.momentum, network.act.inplace) == (1e-3, 0.03, True)
    assert torch.equal(network.conv.weight, before)


def test_find_modules() -> None:
    owner = SimpleNamespace(module_list=nn.ModuleList([nn.Conv2d(1, 1, 1), nn.ReLU(), nn.Conv2d(1, 1, 1)]))
    assert torch_utils.find_modules(owner) == [0, 2]
    assert torch_utils.find_modules(owner, nn.ReLU) == [1]
    assert torch_utils.find_modules(Small(), nn.Linear) == [3]


def test_sparsity_and_prune() -> None:
    conv = nn.Conv2d(1, 8, 3)
    assert torch_utils.sparsity(conv) == 0
    torch_utils.prune(conv, amount=0.5)
    assert torch_utils.sparsity(conv) == 36 / 80  # half of 72 weights, of 80 parameters


def test_fuse_conv_and_bn() -> None:
    conv, norm = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4).eval()
    norm.running_mean.uniform_()  # type: ignore[union-attr]
    x = torch.rand(1, 3, 8, 8)
    torch.testing.assert_close(torch_utils.fuse_conv_and_bn(conv, norm)(x), norm(conv(x)))


def test_model_info(log: pytest.LogCaptureFixture) -> None:
    network = Small()  # 112 + 8 + 10 parameters
    network.linear.requires_grad_(False)
    torch_utils.model_info(network)
    assert log.messages == ["Small: 5 layers, 130 parameters, 120 gradients"]
    torch_utils.model_info(network, verbose=True)
    assert sum("conv.weight" in message for message in log.messages) == 1
    log.clear()
    torch_utils.model_info(make_detector(), img_size=[64, 96])  # the name of 6.0
    assert "GFLOPs at 96x64" in log.text


@pytest.mark.parametrize(
    ("ratio", "same_shape", "size"),
    [(1.0, False, (40, 64)), (0.5, False, (32, 32)), (0.5, True, (20, 32)), (1.5, False, (64, 96))],
)
def test_scale_img(ratio: float, same_shape: bool, size: tuple[int, int]) -> None:
    images = torch.full((2, 3, 40, 64), 0.9)
    scaled = torch_utils.scale_img(images, ratio, same_shape, gs=32)
    assert scaled.shape == (2, 3, *size)
    inner = int(40 * ratio)
    torch.testing.assert_close(scaled[:, :, :inner], torch.full_like(scaled[:, :, :inner], 0.9))
    torch.testing.assert_close(scaled[:, :, inner:], torch.full_like(scaled[:, :, inner:], 0.447))


def test_copy_attr() -> None:
    source = SimpleNamespace(a=1, b=2, reducer=3, _private=4)
    target = SimpleNamespace(a=0)
    torch_utils.copy_attr(target, source, exclude=("reducer",))
    assert vars(target) == {"a": 1, "b": 2}
    only = SimpleNamespace()
    torch_utils.copy_attr(only, source, include=("b", "reducer"), exclude=("reducer",))
    assert vars(only) == {"b": 2}


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0", "squeezenet1_0", "mobilenet_v3_small"])
def test_classifiers_of_torchvision(name: str) -> None:
    network = torch_utils.load_classifier(name, n=3).eval()
    assert network(torch.zeros(1, 3, 64, 64)).shape == (1, 3)
    torch_utils.reshape_classifier_output(network, 5)
    assert network(torch.zeros(1, 3, 64, 64)).shape == (1, 5)


def test_own_classifiers() -> None:
    network: Any = nn.Module()
    network.model = nn.Sequential(nn.Conv2d(3, 8, 3), Classify(8, 10))
    linear = network.model[1].linear
    torch_utils.reshape_classifier_output(network, 10)
    assert network.model[1].linear is linear  # unchanged
    torch_utils.reshape_classifier_output(network, n=4)
    assert network.model(torch.zeros(2, 3, 16, 16)).shape == (2, 4)


def test_smart_hub_load(shared: Path) -> None:
    model = torch_utils.smart_hub_load(model="custom", path=str(shared / "weights/yolov5n.pt"), device="cpu")
    assert len(model.names) == 80


def test_profile(log: pytest.LogCaptureFixture) -> None:
    conv = nn.Conv2d(3, 8, 3, bias=False)
    x = torch.rand(2, 3, 10, 12)
    rows = torch_utils.profile(input=x, ops=[conv, nn.Conv2d(4, 1, 1), torch.relu], n=2, device="cpu")
    first, failed, function = rows
    assert first is not None
    assert function is not None
    parameters, gflops, _, forward, backward, shape_in, shape_out = first
    assert (parameters, shape_in, shape_out) == (216, (2, 3, 10, 12), (2, 8, 8, 10))
    assert gflops == pytest.approx(2 * 216 * 2 * 8 * 10 / 1e9)  # a multiply-add is two
    assert forward > 0
    assert backward > 0
    assert failed is None
    assert function[0] == 0
    assert len(log.messages) == 4
    assert len(torch_utils.profile(x=[x, x], ops=conv, n=1, device=torch.device("cpu"))) == 2  # the names of 5.0


# -- training ---------------------------------------------------------------------------------------------------------


def test_cross_entropy() -> None:
    loss = torch_utils.smartCrossEntropyLoss(label_smoothing=0.1)
    logits = torch.tensor([[2.0, 0.0]])
    log_probabilities = np.log(np.exp([2, 0]) / np.exp([2, 0]).sum())
    expected = -(0.95 * log_probabilities[0] + 0.05 * log_probabilities[1])
    assert loss(logits, torch.tensor([0])).item() == pytest.approx(expected)


OPTIMIZERS = {"Adam": torch.optim.Adam, "AdamW": torch.optim.AdamW, "RMSProp": torch.optim.RMSprop}


@pytest.mark.parametrize(("name", "kind"), [*OPTIMIZERS.items(), ("SGD", torch.optim.SGD)])
def test_smart_optimizer(name: str, kind: type, log: pytest.LogCaptureFixture) -> None:
    network = Small()
    optimizer = torch_utils.smart_optimizer(network, name, lr=0.01, momentum=0.8, decay=0.02)
    assert type(optimizer) is kind
    biases, weights, norms = optimizer.param_groups
    assert {id(p) for p in biases["params"]} == {id(m.bias) for m in (network.conv, network.norm, network.linear)}
    assert {id(p) for p in weights["params"]} == {id(network.conv.weight), id(network.linear.weight)}
    assert [id(p) for p in norms["params"]] == [id(network.norm.weight)]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0, 0.02, 0]
    assert all(group["lr"] == 0.01 for group in optimizer.param_groups)
    assert (weights["momentum"] if name in ("SGD", "RMSProp") else weights["betas"][0]) == 0.8
    assert "2 weights with decay 0.02, 1 norm weights, 3 biases" in log.text


def test_smart_optimizer_of_another_name() -> None:
    with pytest.raises(InputError, match="optimizer 'Lion': not supported"):
        torch_utils.smart_optimizer(Small(), "Lion")


def train_step(network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    network(torch.rand(2, 3, 8, 8)).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def make_checkpoint(epoch: int) -> dict[str, Any]:
    network = Small()
    optimizer = torch_utils.smart_optimizer(network, "SGD", lr=0.01)
    train_step(network, optimizer)
    ema = Small()
    return {"epoch": epoch, "best_fitness": 0.4, "optimizer": optimizer.state_dict(), "ema": ema, "updates": 70}


def test_smart_resume(log: pytest.LogCaptureFixture) -> None:
    checkpoint, network = make_checkpoint(epoch=9), Small()
    optimizer, ema = torch_utils.smart_optimizer(network, "SGD", lr=0.5), torch_utils.ModelEMA(network)
    assert torch_utils.smart_resume(checkpoint, optimizer, ema, "last.pt", 30, True) == (0.4, 10, 30)
    assert optimizer.param_groups[1]["lr"] == 0.01
    assert len(optimizer.state) == 6
    assert ema.updates == 70
    torch.testing.assert_close(ema.ema.conv.weight, checkpoint["ema"].conv.weight)
    assert "Resuming training of last.pt from epoch 10 to 30" in log.text
    own = checkpoint | {"ema": Small().state_dict()}  # as checkpoints of this project
    torch_utils.smart_resume(own, optimizer, ema, "last.pt", 30, True)
    torch.testing.assert_close(ema.ema.conv.weight, own["ema"]["conv.weight"])


def test_smart_resume_trains_for_more_epochs() -> None:
    optimizer = torch_utils.smart_optimizer(Small(), "SGD")
    checkpoint = make_checkpoint(epoch=9)
    assert torch_utils.smart_resume(checkpoint, optimizer, None, "a.pt", epochs=5, resume=False) == (0.4, 10, 14)
    finished = {"epoch": -1, "best_fitness": None, "optimizer": None, "ema": None, "updates": None}
    assert torch_utils.smart_resume(finished, optimizer, resume=False) == (0.0, 0, 300)
    with pytest.raises(InputError, match=r"a\.pt: its training has finished"):
        torch_utils.smart_resume(finished, optimizer, None, "a.pt", resume=True)


def test_early_stopping(log: pytest.LogCaptureFixture) -> None:
    stopper = torch_utils.EarlyStopping(patience=3)
    fitness = [0.0, 0.0, 0.0, 0.0, 0.2, 0.5, 0.5, 0.4, 0.4]
    stops, possible = [], []
    for epoch, value in enumerate(fitness):
        stops.append(stopper(epoch=epoch, fitness=np.array([value])))  # as `fitness` of utils.metrics returns it
        possible.append(stopper.possible_stop)
    assert stops == [False] * 8 + [True]  # 3 epochs after epoch 5; while nothing is learned it waits
    assert possible == [False] * 7 + [True, True]
    assert (stopper.best_epoch, stopper.best_fitness) == (5, 0.5)
    assert "no better epoch than 5 in the last 3 epochs" in log.text
    never = torch_utils.EarlyStopping(0)
    assert not any(never(epoch, 0.5) for epoch in range(1000))
    resumed = torch_utils.EarlyStopping(patience=2)
    resumed.best_fitness = 0.9  # as train.py of 7.0 sets it
    assert [resumed(epoch, 0.5) for epoch in (0, 1, 2)] == [False, False, True]


def test_ema_decays_against_the_reference(shared: Path) -> None:
    golden = json.loads((shared / "reference/golden/schedules.json").read_text())
    for updates, expected in zip(golden["ema_updates"], golden["ema_decay"], strict=True):
        ema = torch_utils.ModelEMA(nn.Linear(1, 1, bias=False), updates=updates - 1)
        nn.init.zeros_(ema.ema.weight)
        model = nn.Linear(1, 1, bias=False)
        nn.init.ones_(model.weight)
        ema.update(model)
        assert 1 - ema.ema.weight.item() == pytest.approx(expected, abs=1e-6)  # it was 0, the model is 1


def test_ema() -> None:
    network = Small()
    ema = torch_utils.ModelEMA(nn.DataParallel(network), decay=0.5, tau=1.0)
    assert not ema.ema.training
    assert not any(p.requires_grad for p in ema.ema.parameters())
    start = network.conv.weight.detach().clone()
    with torch.no_grad():
        network.conv.weight += 1
    ema.update(nn.DataParallel(network))
    decay = 0.5 * (1 - np.exp(-1))
    torch.testing.assert_close(ema.ema.conv.weight, start * decay + (start + 1) * (1 - decay))
    assert ema.updates == 1
    network.names, network.reducer, network._hidden = ["a"], "r", 1  # type: ignore[assignment]
    ema.update_attr(network)
    assert ema.ema.names == ["a"]
    assert not hasattr(ema.ema, "reducer")
    assert not hasattr(ema.ema, "_hidden")


def test_ema_continues_after_validation_in_fp16() -> None:
    """val.py of 7.0 calls half() and float() on the average, which replaces its tensors."""
    network = Small()
    ema = torch_utils.ModelEMA(network, decay=0.0)
    ema.update(network)
    ema.ema.half()
    ema.ema.float()
    with torch.no_grad():
        network.linear.weight.fill_(0.25)
    ema.update(network)
    torch.testing.assert_close(ema.ema.linear.weight, network.linear.weight)


def test_a_training_step_as_in_7_0() -> None:
    """The helpers together, with a scheduler, on the own network."""
    model = make_detector()
    optimizer = torch_utils.smart_optimizer(model, "SGD", 0.01, 0.937, 5e-4)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda x: 1 - x / 10)
    ema, stopper = torch_utils.ModelEMA(model), torch_utils.EarlyStopping(patience=100)
    before = ema.ema.state_dict()["model.0.conv.weight"].clone()
    for epoch in range(2):
        preds = model.train()(torch.rand(1, 3, 64, 64))
        total = sum(pred.square().mean() for pred in preds)
        total.backward()
        assert nn.utils.clip_grad_norm_(model.parameters(), max_norm=10.0) > 0
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()
        ema.update(model)
        ema.update_attr(model, include=["yaml", "nc", "hyp", "names", "stride", "class_weights"])
        assert not stopper(epoch=epoch, fitness=0.1 * epoch)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.008)
    assert not torch.equal(before, ema.ema.state_dict()["model.0.conv.weight"])

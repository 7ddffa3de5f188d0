from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from models.checkpoint import load_training_state
from utils.config.train import TrainConfig
from utils.core.errors import WORKER_DIED, InputError
from utils.core.types import Batch
from utils.train.callbacks import HOOKS, Callbacks
from utils.train.checkpointing import collect_state
from utils.train.finish import finish
from utils.train.multi_scale import get_largest_imgsz
from utils.train.setup import build_trainer, freeze_layers
from utils.train.trainer import Trainer


def make_trainer(tiny_data: Path, folder: Path, **options: object) -> Trainer:
    base = {
        **{"data": str(tiny_data), "weights": "", "cfg": "yolov5n.yaml", "imgsz": 64, "batch_size": 4},
        **{"workers": 0, "epochs": 1, "project": str(folder), "noplots": True, "device": "cpu", "noautoanchor": True},
    }
    return build_trainer(TrainConfig.from_kwargs(**(base | options)))


class FixedLoader:
    """A `StepLoader` with one batch per step."""

    def __init__(self, batches: list[Batch]) -> None:
        self.batches = batches

    def set_epoch(self, epoch: int, image_weights: np.ndarray | None = None, first: int = 0) -> None: ...
    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[Batch]]:
        return ([batch] for batch in self.batches)


def collect_gradients(trainer: Trainer, batches: list[Batch]) -> torch.Tensor:
    """Gradient of the first weight at the optimizer step over these batches."""
    gradients: list[torch.Tensor] = []
    weight = trainer.model.model[0].conv.weight
    trainer.callbacks.on("optimizer_step", lambda **_: gradients.append(weight.grad.clone()))
    trainer.loader = FixedLoader(batches)
    trainer._train_epoch(0)
    return gradients[-1]


def test_a_loss_that_is_not_finite_stops_and_keeps_the_checkpoint(tiny_data: Path, tmp_path: Path) -> None:
    trainer = make_trainer(tiny_data, tmp_path)
    with torch.no_grad():
        trainer.model.model[0].conv.weight.fill_(float("nan"))
    with pytest.raises(InputError, match="not finite"):
        trainer.fit()
    assert (tmp_path / "exp/weights/last.pt").exists()


def test_accumulated_gradients_equal_those_of_one_large_batch(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step over two batches moves the weights by the sum of both gradients."""
    hyp = {"lr0": 0.0, "warmup_bias_lr": 0.0, "warmup_iterations": 0, "warmup_epochs": 0, "nominal_batch": 8}
    trainer = make_trainer(tiny_data, tmp_path, hyp=hyp, clip_grad=0.0)
    trainer.model.eval()  # batch norm on running statistics, so that images do not influence each other
    monkeypatch.setattr(trainer.model, "train", lambda mode=True: trainer.model)
    batches = [batch for step in trainer.loader for batch in step][:2]
    single = [collect_gradients(trainer, [batch]) for batch in batches]
    both = collect_gradients(trainer, batches)
    assert torch.allclose(both, single[0] + single[1], rtol=1e-4, atol=1e-6)


def draw_size(trainer: Trainer, side: int, iteration: int) -> int:
    """Size of the network input for a square image in an iteration."""
    batch = Batch(torch.zeros(1, 3, side, side, dtype=torch.uint8), torch.zeros(0, 6), ["a.jpg"])
    return int(trainer._prepare_images(batch, iteration).shape[-1])


def test_multi_scale_sizes_are_on_the_grid_and_repeat(tiny_data: Path, tmp_path: Path) -> None:
    trainer = make_trainer(tiny_data, tmp_path, multi_scale=True, imgsz=128)
    sizes = [draw_size(trainer, 128, iteration) for iteration in range(40)]
    assert sizes == [draw_size(trainer, 128, iteration) for iteration in range(40)]
    assert set(sizes) == {64, 96, 128, 160, 192}
    assert get_largest_imgsz(128, 32) == 192


def test_multi_scale_and_quad_leave_batch_norm_enough(tiny_data: Path, tmp_path: Path) -> None:
    """Four images become one; at the smallest side it still has more than one value a channel."""
    trainer = make_trainer(tiny_data, tmp_path, multi_scale=True, quad=True)
    assert {draw_size(trainer, 128, iteration) for iteration in range(40)} == {64, 96}


def test_frozen_layers_do_not_move(tiny_data: Path, tmp_path: Path) -> None:
    trainer = make_trainer(tiny_data, tmp_path, freeze=[3])
    before = {k: v.clone() for k, v in trainer.model.named_parameters()}
    trainer.fit()
    moved = {k for k, v in trainer.model.named_parameters() if not torch.equal(v, before[k])}
    assert not any(k.startswith(("model.0.", "model.1.", "model.2.")) for k in moved)
    assert any(k.startswith("model.3.") for k in moved)
    with pytest.raises(InputError, match="layers 0-24"):
        freeze_layers(trainer.model, [25, 99])
    for everything in ([25], list(range(25))):
        with pytest.raises(InputError, match="nothing is left to train of 25 layers; freeze at most 24"):
            freeze_layers(trainer.model, everything)


def test_early_stop_after_patience(tiny_data: Path, tmp_path: Path) -> None:
    result = make_trainer(tiny_data, tmp_path, epochs=30, patience=1, hyp={"lr0": 0.0, "warmup_bias_lr": 0.0}).fit()
    assert result.epochs < 30


@pytest.mark.parametrize("channels", [1, 4])
def test_any_channel_count_trains(channels: int, tmp_path: Path) -> None:
    """Images from .npy with as many channels as the model YAML names."""
    import numpy as np

    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        (tmp_path / "images" / split).mkdir(parents=True)
        (tmp_path / "labels" / split).mkdir(parents=True)
        for number in range(4):
            image = rng.integers(0, 255, (64, 64, channels)).astype(np.uint8)
            np.save(tmp_path / "images" / split / f"{number}.npy", image)
            (tmp_path / "labels" / split / f"{number}.txt").write_text("0 0.5 0.5 0.4 0.4\n")
    data = tmp_path / "data.yaml"
    data.write_text("path: .\ntrain: images/train\nval: images/val\nnames: [thing]\n")
    cfg = tmp_path / "net.yaml"
    cfg.write_text(f"ch: {channels}\n" + (Path(__file__).parents[3] / "models/yolov5n.yaml").read_text())
    result = make_trainer(data, tmp_path / "runs", cfg=str(cfg)).fit()
    assert result.epochs == 1


def test_best_checkpoint_of_another_run_is_removed(tiny_data: Path, tmp_path: Path) -> None:
    weights = tmp_path / "exp/weights"
    weights.mkdir(parents=True)
    (weights / "best.pt").write_bytes(b"of another run")
    trainer = make_trainer(tiny_data, tmp_path, exist_ok=True, nosave=True)
    trainer.callbacks.on("on_train_epoch_start", lambda **_: seen.append((weights / "best.pt").exists()))
    seen: list[bool] = []
    result = trainer.fit()
    assert result.save_dir == tmp_path / "exp"
    assert seen == [False]
    assert result.best is not None


def test_best_is_written_before_last(tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill in between leaves a last.pt that does the epoch again, and with it best.pt."""
    trainer = make_trainer(tiny_data, tmp_path, save_period=1)
    written: list[str] = []
    monkeypatch.setattr(trainer, "_save", lambda path, **_: written.append(path.name))
    trainer._save_epoch(0, is_best=True, metrics={})
    assert written == ["best.pt", "epoch0.pt", "last.pt"]


def test_image_weights_count_from_the_first_epoch(tiny_data: Path, tmp_path: Path) -> None:
    """Before the first measurement every class has mAP 0, so that its rarity alone decides."""
    trainer = make_trainer(tiny_data, tmp_path, image_weights=True)
    index = trainer.task.get_index("train")
    inverse = 1 / np.bincount(index.classes, minlength=2)
    expected = [inverse[index.labels(i)[0]].sum() / inverse.sum() for i in range(len(index))]
    assert trainer.image_weights == pytest.approx(expected)
    assert make_trainer(tiny_data, tmp_path).image_weights is None


def test_validation_takes_two_batches_at_a_time(tiny_data: Path, tmp_path: Path) -> None:
    assert len(make_trainer(tiny_data, tmp_path, batch_size=2).val_loader) == 2  # 6 images by fours


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGCHLD])
def test_a_signal_during_a_checkpoint_is_raised_after_it(
    number: signal.Signals, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither Ctrl-C nor a lost loader process tears the file or looks like a failed write."""

    def report(number: int, frame: object) -> None:
        raise RuntimeError(f"{WORKER_DIED} 7) is killed by hand")

    previous = signal.signal(signal.SIGCHLD, report)
    written = torch.save

    def save(*args: object) -> None:
        signal.raise_signal(number)
        written(*args)

    trainer = make_trainer(tiny_data, tmp_path)
    monkeypatch.setattr(torch, "save", save)
    try:
        with pytest.raises(KeyboardInterrupt if number == signal.SIGINT else RuntimeError):
            trainer.fit()
    finally:
        signal.signal(signal.SIGCHLD, previous)
    assert load_training_state(tmp_path / "exp/weights/last.pt")["epoch"] == -1


def test_every_hook_runs(tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each hook of the public list is called, in the order of a run, with its batches and images counted."""
    heard: list[str] = []
    tell = Callbacks.run

    def listen(self: Callbacks, hook: str, **details: object) -> None:
        heard.append(hook)
        tell(self, hook, **details)

    monkeypatch.setattr(Callbacks, "run", listen)
    trainer = make_trainer(tiny_data, tmp_path, epochs=1)
    finish(trainer, trainer.fit())
    assert set(heard) == set(HOOKS)
    assert heard.count("on_train_batch_start") == heard.count("on_train_batch_end") == 3
    assert heard.count("on_val_image_end") == 6
    assert heard.count("on_val_batch_start") == heard.count("on_val_batch_end") == 1
    assert heard[0] == "on_pretrain_routine_start"
    assert heard.index("optimizer_step") + 1 == heard.index("on_before_zero_grad")
    assert heard[-2:] == ["on_train_end", "teardown"]


def test_teardown_runs_after_an_error(tiny_data: Path, tmp_path: Path) -> None:
    ended: list[bool] = []
    trainer = make_trainer(tiny_data, tmp_path)
    trainer.callbacks.on("on_train_epoch_start", lambda **_: 1 / 0)
    trainer.callbacks.on("teardown", lambda **_: ended.append(True))
    with pytest.raises(ZeroDivisionError):
        trainer.fit()
    assert ended == [True]


@pytest.mark.parametrize("limit", [0.5, 0.0])
def test_gradients_are_clipped(limit: float, tiny_data: Path, tmp_path: Path) -> None:
    """The norm of all gradients at the optimizer step; 0 leaves them alone."""
    trainer = make_trainer(tiny_data, tmp_path, clip_grad=limit)
    norms = []

    def record(**_: object) -> None:
        norms.append(torch.cat([p.grad.flatten() for p in trainer.model.parameters()]).norm().item())

    trainer.callbacks.on("optimizer_step", record)
    trainer._train_epoch(0)
    assert norms[0] == pytest.approx(limit, rel=1e-3) if limit else norms[0] > 1


def test_activation_checkpointing_gives_the_same_weights(tiny_data: Path, tmp_path: Path) -> None:
    options = {"dropblock": 0.1, "multi_scale": True}
    runs = [
        make_trainer(tiny_data, tmp_path / str(saving), checkpoint_activations=saving, **options).fit()
        for saving in (False, True)
    ]
    first, second = (torch.load(run.last, weights_only=True) for run in runs)
    assert all(torch.equal(value, second["model"][key]) for key, value in first["model"].items())
    assert not any("drop" in key for key in first["model"])


def test_sizes_images_and_frozen_layers_depend_on_the_seed_only(tiny_data: Path, tmp_path: Path) -> None:
    """As several processes need it: whoever asks, in whatever order, gets the same."""
    options = {"multi_scale": True, "image_weights": True, "freeze": [2], "imgsz": 96, "seed": 3}
    one, other = (make_trainer(tiny_data, tmp_path / name, **options) for name in ("one", "other"))
    torch.rand(7), np.random.default_rng(1).random(9)  # earlier draws of a process do not matter
    sizes = [draw_size(one, 96, i) for i in range(20)]
    assert sizes == [draw_size(other, 96, i) for i in reversed(range(20))][::-1]
    frozen = [[name for name, p in t.model.named_parameters() if not p.requires_grad] for t in (one, other)]
    assert frozen[0] == frozen[1] != []
    weights = one.task.compute_image_weights(np.array([0.2, 0.7]))
    assert np.array_equal(weights, other.task.compute_image_weights(np.array([0.2, 0.7])))
    orders = []
    for trainer, epochs in ((one, (0, 1, 2)), (other, (2, 0, 1))):
        drawn: dict[int, list[object]] = {}
        for epoch in epochs:
            loader = trainer.loader.loaders[0]
            loader.set_epoch(epoch, weights)
            drawn[epoch] = [key for keys in loader.sampler for key in keys]
        orders.append(drawn)
    assert orders[0] == orders[1]
    assert orders[0][0] != [(0, *rest) for _, *rest in orders[0][1]]


def test_a_resumed_run_keeps_its_precision(tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trial of the processor's speed may end otherwise when the run goes on."""
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True, raising=False)
    for pays, dtype in ((True, torch.bfloat16), (False, None)):
        monkeypatch.setattr("utils.train.amp.is_bf16_faster", lambda answer=pays: answer)
        begun = make_trainer(tiny_data, tmp_path, amp="bf16", nosave=True)
        assert begun.amp == dtype
        monkeypatch.setattr("utils.train.amp.is_bf16_faster", lambda answer=not pays: answer)
        state = collect_state(begun, epoch=-1, metrics={}, position=None)
        options = {"device": begun.device, "save_dir": tmp_path, "callbacks": Callbacks(), "state": state}
        assert Trainer(begun.task, begun.model, begun.config, **options).amp == dtype

"""Jobs for tests that compare one training process with two.

As a script, it is one of the processes: `process_pairs.py JOBS DATA FOLDER TASK`, with its rank in the environment.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import yaml
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from utils.config.train import TrainConfig  # noqa: E402
from utils.core import distributed  # noqa: E402
from utils.core.logging import setup_logging  # noqa: E402
from utils.core.types import Batch, Prediction  # noqa: E402
from utils.evaluate.validator import validate  # noqa: E402
from utils.ops.network_input import images_to_device  # noqa: E402
from utils.train.setup import build_trainer  # noqa: E402
from utils.train.trainer import Trainer  # noqa: E402

Result = dict[str, Any]
TIMEOUT_S = 150
IMAGES, BATCH = 9, 4  # the last batch has one image: rank 1 has none
HEAD = {
    "detect": [[[4, 3], 1, "Detect", ["nc", "anchors"]]],
    "segment": [[[4, 3], 1, "Segment", ["nc", "anchors", 4, 8]]],
    "classify": [[[4, 3], 1, "Detect", ["nc", "anchors"]]],  # the cutoff drops it
    "joint": [[[4, 3], 1, "Detect", ["nc", "anchors"]], [[4, 3, 3], 1, "SegMaskPSP", ["n_segcls", 1, 8, False]]],
}


SEMANTIC = "semantic: {names: {0: ground, 1: thing}}\n"


def make_graph(task: str) -> dict[str, Any]:
    """A tiny network with strides 8 and 16 and batch norms."""
    rows = [[-1, 1, "Conv", [8, 6, 2, 2]], [-1, 1, "Conv", [8, 3, 2]], [-1, 1, "Conv", [16, 3, 2]]]
    backbone = [*rows, [-1, 1, "Conv", [16, 3, 2]], [2, 1, "Conv", [8, 1, 1]]]
    anchors = [[6, 8, 12, 12], [16, 20, 30, 28]]
    return {
        **({"n_segcls": 2} if task == "joint" else {}),
        **{"nc": 2, "depth_multiple": 1.0, "width_multiple": 1.0, "backbone": backbone, "head": HEAD[task]},
        **{"anchors": anchors, "cutoff": 4},
    }


def write_data(folder: Path, task: str) -> None:
    """Write `tiny.yaml` or class folders, and `graph.yaml`: gray images with bright boxes, some with none."""
    rng = np.random.default_rng(1)
    (folder / "graph.yaml").write_text(yaml.safe_dump(make_graph(task)))
    for split, count in (("train", IMAGES), ("val", 2 * 2 * BATCH + 1)):
        for number in range(count):
            frame = rng.integers(90, 130, (64, 96, 3)).astype(np.uint8)
            label = number % 2
            rows = []
            for _ in range(number % 4):
                (w, h), (x, y) = rng.integers(10, 30, 2), rng.integers(0, (66, 34))
                cv2.rectangle(frame, (int(x), int(y)), (int(x + w), int(y + h)), (240, 230, 220), -1)
                corners = [(x, y), (x + w, y), (x + w, y + h), (x, y + h)]
                rows.append(f"{label} " + " ".join(f"{a / 96:.5f} {b / 64:.5f}" for a, b in corners))
            if task == "classify":
                file = folder / "sets" / split / f"c{label}" / f"{number}.png"
            else:
                file = folder / "images" / split / f"{number:03d}.png"
                text = folder / "labels" / split / f"{number:03d}.txt"
                text.parent.mkdir(parents=True, exist_ok=True)
                text.write_text("\n".join(rows))
                mask = folder / "masks" / split / f"{number:03d}.png"
                mask.parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(mask), (frame[..., 0] > 200).astype(np.uint8))
            file.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(file), frame)
    (folder / "tiny.yaml").write_text("path: .\ntrain: images/train\nval: images/val\nnames: {0: a, 1: b}\n" + SEMANTIC)


def make_trainer(data: Path, folder: Path, task: str, **options: Any) -> Trainer:
    """Build a trainer of the tiny network on the CPU."""
    common = {
        **{"task": task, "weights": "", "cfg": str(data / "graph.yaml"), "imgsz": 64, "batch_size": BATCH},
        **{"workers": 0, "epochs": 2, "device": "cpu", "project": str(folder), "noplots": True, "exist_ok": True},
    }
    if task == "classify":
        common |= {"data": str(data / "sets")}
    else:
        common |= {"data": str(data / "tiny.yaml"), "noautoanchor": True}
    return build_trainer(TrainConfig.from_kwargs(**(common | options)))


# -- jobs: the results must not depend on the number of processes -----------------------------------------------------


def compute_gradients(data: Path, folder: Path, task: str, options: dict[str, Any]) -> Result:
    """Compute loss and gradients of all batches of an epoch, with synchronized and with frozen batch norms."""
    values: Result = {}
    for dtype in (torch.float64, torch.float32):
        for norms in ("shared", "frozen"):
            trainer = make_trainer(data, folder, task, sync_bn=norms == "shared", **options)
            trainer.model.to(dtype).train()
            if norms == "frozen":
                for module in trainer.model.modules():
                    if isinstance(module, nn.BatchNorm2d):
                        module.eval()
            name = f"{str(dtype).removeprefix('torch.')} {norms}"
            for number, batches in enumerate(trainer.loader):
                loss = _forward_backward(trainer, batches[0], dtype)
                values[f"{name} loss {number}"] = loss
            distributed.all_reduce_gradients(trainer.model.parameters())
            values |= {f"{name} grad {key}": p.grad.clone() for key, p in trainer.model.named_parameters()}
            if norms == "shared":
                values |= {f"{name} {key}": b.clone() for key, b in trainer.model.named_buffers() if "running" in key}
    return values


def _forward_backward(trainer: Trainer, batch: Batch, dtype: torch.dtype) -> Tensor:
    images = images_to_device(batch.images, trainer.device, dtype, pixels=trainer.task.pixels)
    result = trainer.task.losses(trainer.model(images), batch, reduce=distributed.all_reduce_sum)
    assert result is not None
    result.total.backward()
    return distributed.all_reduce_sum(result.total).detach()


def run_training(data: Path, folder: Path, task: str, options: dict[str, Any]) -> Result:
    """Train; return the EMA weights, the losses and the number of validated images."""
    trainer = make_trainer(data, folder, task, sync_bn=True, **options)
    trainer.fit()
    result = trainer._validate()
    values = {f"ema {key}": value.clone() for key, value in trainer.ema.model.state_dict().items()}
    return values | {"images": torch.tensor(result.images), "losses": torch.tensor(list(result.losses.values()))}


def run_validation(data: Path, folder: Path, task: str, options: dict[str, Any]) -> Result:
    """Validate mock predictions: the labels, perturbed by a generator seeded from the image's name."""
    trainer = make_trainer(data, folder, task, **options)
    postprocess = trainer.task.postprocess

    def mock_postprocess(preds: Any, batch: Batch) -> list[Prediction]:
        predictions = postprocess(preds, batch)
        return [_mock(prediction, batch, number) for number, prediction in enumerate(predictions)]

    trainer.task.postprocess = mock_postprocess  # type: ignore[method-assign]
    result = validate(trainer.task, trainer.model, trainer.val_loader, device=trainer.device)
    values = {key: torch.tensor(value, dtype=torch.float64) for key, value in result.evaluation.metrics.items()}
    evaluator: Any = result.evaluator
    if task == "joint":
        values["map confusion"] = torch.from_numpy(evaluator.semantic.confusion)
        evaluator = evaluator.boxes
    confusion = getattr(evaluator.confusion, "matrix", evaluator.confusion)
    values["confusion"] = torch.from_numpy(np.array(confusion))
    values["losses"] = torch.tensor(list(result.losses.values()), dtype=torch.float64)
    return values | {"per_class": torch.from_numpy(result.evaluation.per_class), "images": torch.tensor(result.images)}


def _mock(prediction: Prediction, batch: Batch, number: int) -> Prediction:
    rng = np.random.default_rng(int(Path(batch.paths[number]).stem))
    if prediction.probs is not None:
        return replace(prediction, probs=torch.from_numpy(rng.random(2)))
    rows = batch.targets[batch.targets[:, 0] == number, 1:]
    height, width = batch.images.shape[2:]
    centers = rows[:, 1:] * torch.tensor([width, height, width, height])
    corners = torch.cat([centers[:, :2] - centers[:, 2:] / 2, centers[:, :2] + centers[:, 2:] / 2], dim=1)
    corners = corners + torch.from_numpy(rng.uniform(-4, 4, corners.shape)).float()
    scores = torch.from_numpy(rng.integers(1, 6, (len(rows), 1)) / 6).float()  # many are equal
    boxes = torch.cat([corners, scores, rows[:, :1]], dim=1)
    if prediction.masks is None:
        return replace(prediction, boxes=boxes)
    assert prediction.boxes is not None
    return prediction  # masks come from the network


JOBS: dict[str, Callable[..., Result]] = {"gradients": compute_gradients, "training": run_training}
JOBS |= {"validation": run_validation}


# -- running ----------------------------------------------------------------------------------------------------------


def find_free_port() -> int:
    """Find an unused port of the loopback interface."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def make_environments(count: int) -> list[dict[str, str]]:
    """Make the environment that a launcher sets for each of `count` processes."""
    rendezvous = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(find_free_port()), "OMP_NUM_THREADS": "1"}
    sizes = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
    return [os.environ | rendezvous | sizes | {"RANK": str(n), "LOCAL_RANK": str(n)} for n in range(count)]


def run_pair(jobs: str, data: Path, folder: Path, task: str) -> list[dict[str, Result]]:
    """Run jobs (names separated by commas) in two processes; the results of each process by job name."""
    command = [sys.executable, str(Path(__file__)), jobs, str(data), str(folder), task]
    processes = [
        subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for env in make_environments(2)
    ]
    try:
        outputs = [process.communicate(timeout=TIMEOUT_S)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(outputs)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def run_jobs(jobs: str, data: Path, folder: Path, task: str, **options: Any) -> dict[str, Result]:
    """Run jobs in this process; results by job name."""
    return {name: JOBS[name](data, folder / name, task, options) for name in jobs.split(",")}


if __name__ == "__main__":
    jobs, data, folder, task = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4]
    setup_logging()
    torch.save(run_jobs(jobs, data, folder, task), folder / f"{os.environ['RANK']}.pt")
    distributed.destroy_process_group()

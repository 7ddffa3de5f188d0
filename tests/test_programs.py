"""Programs in the manner of YOLOv5's scripts, which use only its public addresses."""

from __future__ import annotations

import logging
import random
from argparse import Namespace
from copy import deepcopy
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml

import val
from models.common import DetectMultiBackend
from models.experimental import attempt_load
from models.yolo import Model
from utils.autoanchor import check_anchors
from utils.callbacks import Callbacks
from utils.dataloaders import LoadImages, create_dataloader
from utils.downloads import attempt_download
from utils.general import (
    LOGGER,
    check_amp,
    check_dataset,
    check_img_size,
    init_seeds,
    intersect_dicts,
    labels_to_class_weights,
    methods,
    non_max_suppression,
    one_cycle,
    scale_boxes,
    strip_optimizer,
    xyxy2xywh,
    yaml_save,
)
from utils.loggers import Loggers
from utils.loss import ComputeLoss
from utils.metrics import fitness
from utils.plots import Annotator, colors, save_one_box
from utils.torch_utils import EarlyStopping, ModelEMA, de_parallel, select_device, smart_inference_mode, smart_optimizer

ROOT = Path(__file__).resolve().parents[1]
IMGSZ = 96


@smart_inference_mode()
def detect_images(weights: Path, source: Path, folder: Path) -> dict[str, np.ndarray]:
    """Draw, crop and save detections; (n, 6) boxes in pixels, scores and classes by file name."""
    model = DetectMultiBackend(str(weights), device=select_device("cpu"), dnn=False, data=None, fp16=False)
    size = check_img_size((640, 640), s=model.stride)
    dataset = LoadImages(str(source), img_size=size, stride=model.stride, auto=model.pt, vid_stride=1)
    model.warmup(imgsz=(1, 3, *size))
    results = {}
    for path, im, im0s, _, text in dataset:
        batch = torch.from_numpy(im).to(model.device).float()[None] / 255
        pred = non_max_suppression(model(batch, augment=False, visualize=False), 0.25, 0.45, None, False, max_det=1000)
        im0 = im0s.copy()
        annotator = Annotator(im0, line_width=3, example=str(model.names))
        det = pred[0]
        det[:, :4] = scale_boxes(batch.shape[2:], det[:, :4], im0.shape).round()
        for *xyxy, conf, cls in reversed(det):
            assert (xyxy2xywh(torch.tensor(xyxy).view(1, 4)) / torch.tensor(im0.shape)[[1, 0, 1, 0]]).max() <= 1
            annotator.box_label(xyxy, f"{model.names[int(cls)]} {conf:.2f}", color=colors(int(cls), True))
            save_one_box(xyxy, im0s, file=folder / "crops" / model.names[int(cls)] / f"{Path(path).stem}.jpg", BGR=True)
        cv2.imwrite(str(folder / Path(path).name), annotator.result())
        LOGGER.info(f"{text}{len(det)} detections")
        results[Path(path).name] = det.numpy()
    return results


def test_detection_program_equals_the_original(shared: Path, tmp_path: Path) -> None:
    results = detect_images(shared / "weights/yolov5n.pt", shared / "data/images", tmp_path)
    golden = np.load(shared / "reference/golden/yolov5n_coco.npz")
    names = [name for name in golden.files if name.endswith("detect")]
    assert len(names) == len(results) == 2
    for name in names:
        expected = golden[name]
        found = results[next(file for file in results if Path(file).stem in name)]
        np.testing.assert_allclose(found[:, :4], expected[:, :4], atol=0.5)
        np.testing.assert_allclose(found[:, 4:], expected[:, 4:], atol=1e-4)
    assert {path.name for path in tmp_path.glob("*.jpg")} == set(results)
    assert list(tmp_path.glob("crops/person/*.jpg"))


def train_detector(data_yaml: Path, weights: Path, folder: Path, epochs: int) -> list[tuple[float, ...]]:
    """Fine-tune a checkpoint with a loop of its own; the seven results of each epoch."""
    callbacks, device = Callbacks(), select_device("cpu")
    hyp: dict[str, Any] = yaml.safe_load((ROOT / "data/hyps/hyp.scratch-low.yaml").read_text())
    flags = ("resume", "evolve", "noplots", "quad", "nosave", "noval", "sync_bn", "upload_dataset")
    opt = Namespace(
        save_dir=str(folder), weights=str(weights), cfg="", data=str(data_yaml), epochs=epochs, batch_size=4,
        imgsz=IMGSZ, hyp=hyp, project=str(folder.parent), name=folder.name, exist_ok=True, entity=None, save_period=-1,
        bbox_interval=-1, artifact_alias="latest", **dict.fromkeys(flags, False),
    )  # fmt: skip
    (folder / "weights").mkdir(parents=True)
    last = folder / "weights/last.pt"
    yaml_save(folder / "hyp.yaml", hyp)
    loggers = Loggers(folder, str(weights), opt, hyp, LOGGER, include=("csv",))
    for hook in methods(loggers):
        callbacks.register_action(hook, callback=getattr(loggers, hook))
    init_seeds(1, deterministic=True)
    data = check_dataset(str(data_yaml))

    checkpoint = torch.load(attempt_download(str(weights)), map_location="cpu")
    model = Model(checkpoint["model"].yaml, ch=3, nc=data["nc"], anchors=hyp.get("anchors")).to(device)
    state = intersect_dicts(checkpoint["model"].float().state_dict(), model.state_dict(), exclude=["anchor"])
    model.load_state_dict(state, strict=False)
    assert len(state) > 300
    assert isinstance(check_amp(model), bool)

    stride = max(int(model.stride.max()), 32)
    imgsz = check_img_size(IMGSZ, stride, floor=stride * 2)
    optimizer = smart_optimizer(model, "SGD", hyp["lr0"], hyp["momentum"], hyp["weight_decay"])
    factor = one_cycle(1, hyp["lrf"], epochs)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lr_lambda=factor)
    ema = ModelEMA(model)
    loader, dataset = create_dataloader(
        data["train"], imgsz, 4, stride, False, hyp=hyp, augment=True, cache=None, rect=False, rank=-1, workers=0,
        image_weights=False, quad=False, prefix="train: ", shuffle=True,
    )  # fmt: skip
    labels = np.concatenate(dataset.labels, 0)
    assert labels[:, 0].max() < data["nc"]
    val_loader = create_dataloader(
        data["val"],
        imgsz,
        8,
        stride,
        False,
        hyp=hyp,
        cache=None,
        rect=True,
        rank=-1,
        workers=0,
        pad=0.5,
        prefix="val: ",
    )[0]
    check_anchors(dataset, model=model, thr=hyp["anchor_t"], imgsz=imgsz)
    callbacks.run("on_pretrain_routine_end", labels, data["names"])

    head = de_parallel(model).model[-1]
    hyp["box"] *= 3 / head.nl
    hyp["cls"] *= data["nc"] / 80 * 3 / head.nl
    hyp["obj"] *= (imgsz / 640) ** 2 * 3 / head.nl
    model.nc, model.hyp, model.names = data["nc"], hyp, data["names"]
    model.class_weights = labels_to_class_weights(dataset.labels, data["nc"]).to(device) * data["nc"]
    compute_loss, stopper, history = ComputeLoss(model), EarlyStopping(patience=100), []
    callbacks.run("on_train_start")
    for epoch in range(epochs):
        model.train()
        mean_loss = torch.zeros(3)
        for i, (imgs, targets, paths, _) in enumerate(loader):
            callbacks.run("on_train_batch_start")
            loss, items = compute_loss(model(imgs.float() / 255), targets)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm=10.0)
            optimizer.step()
            optimizer.zero_grad()
            ema.update(model)
            mean_loss = (mean_loss * i + items) / (i + 1)
            callbacks.run("on_train_batch_end", model, i + len(loader) * epoch, imgs, targets, paths, list(mean_loss))
        rates = [group["lr"] for group in optimizer.param_groups]
        scheduler.step()
        ema.update_attr(model, include=["yaml", "nc", "hyp", "names", "stride", "class_weights"])
        results, maps, _ = val.run(
            data, batch_size=8, imgsz=imgsz, half=False, model=ema.ema, single_cls=False, dataloader=val_loader,
            save_dir=folder, plots=False, callbacks=callbacks, compute_loss=compute_loss,
        )  # fmt: skip
        assert maps.shape == (data["nc"],)
        fit = float(fitness(np.array(results).reshape(1, -1))[0])
        assert not stopper(epoch=epoch, fitness=fit)
        callbacks.run("on_fit_epoch_end", list(mean_loss) + list(results) + rates, epoch, fit, fit)
        history.append(results)
        networks = {"ema": deepcopy(ema.ema).half(), "model": deepcopy(de_parallel(model)).half()}
        state = {"opt": vars(opt), "optimizer": optimizer.state_dict(), "updates": ema.updates, "date": "today"}
        torch.save(networks | state | {"best_fitness": np.array([fit]), "epoch": epoch}, last)
    resumed = torch.load(last, map_location="cpu")
    assert resumed["epoch"] == epochs - 1 and isinstance(resumed["best_fitness"], np.ndarray)
    strip_optimizer(last)
    callbacks.run("on_train_end", last, last, epochs - 1, history[-1])
    return history


def test_training_program(
    shared: Path, tiny_data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LOGGER, "propagate", True)
    random.seed(0)
    folder = tmp_path / "runs" / "exp"
    with caplog.at_level(logging.INFO, LOGGER.name):
        history = train_detector(tiny_data, shared / "weights/yolov5n.pt", folder, epochs=4)
    assert [len(results) for results in history] == [7] * 4
    assert sum(history[-1][4:]) < sum(history[0][4:])  # validation losses
    lines = (folder / "results.csv").read_text().splitlines()
    assert [name.strip() for name in lines[0].split(",")][:4] == [
        "epoch", "train/box_loss", "train/obj_loss", "train/cls_loss",
    ]  # fmt: skip
    assert len(lines) == 5
    last = folder / "weights/last.pt"
    network = attempt_load(str(last), device="cpu")
    assert network.names == check_dataset(str(tiny_data))["names"]
    again = val.run(
        data=str(tiny_data), weights=str(last), imgsz=IMGSZ, batch_size=8, device="cpu", half=False,
        project=str(tmp_path), name="val", plots=False,
    )[0]  # fmt: skip
    assert again[2] == pytest.approx(history[-1][2], abs=0.05)

"""The real packages: a server on loopback, offline runs read back, servers that never answer. Skipped where absent."""

from __future__ import annotations

import io
import json
import socket
import subprocess
import sys
import time
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from utils.loggers.base import BoxedImage, RunInfo, Tracker

METRICS = {"train/box_loss": 0.5, "metrics/mAP_0.5(B)": 0.25, "metrics/mAP_0.5:0.95(B)": 0.125}


def jpeg() -> bytes:
    memory = io.BytesIO()
    Image.fromarray(np.full((8, 12, 3), 200, np.uint8)).save(memory, "jpeg")
    return memory.getvalue()


def make_run(folder: Path, **changes: Any) -> RunInfo:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "data.yaml").write_text("names: [square]\n")
    values: dict[str, Any] = {"params": {"lr0": 0.01, "cfg": "net.yaml"}, "start_epoch": 0}
    values |= {"data": {"data.yaml": folder / "data.yaml"}, "alias": "v2", "names": {0: "square"}}
    return RunInfo(folder, "shapes", **(values | changes))


def log_short_run(tracker: Tracker, run: RunInfo) -> None:
    """A short run: scalars, an image, boxes, a file."""
    tracker.load()
    tracker.start(run)
    for epoch in range(run.start_epoch, run.start_epoch + 2):
        tracker.log_scalars(METRICS, epoch)
    tracker.log_image("validation", jpeg(), run.start_epoch)
    boxes = np.array([[1, 2, 5, 6, 0.75, 0]], np.float32)
    tracker.log_boxes([BoxedImage("a.jpg", np.zeros((8, 12, 3), np.uint8), boxes)], run.start_epoch)
    weights = run.folder / "best.pt"
    weights.write_bytes(b"weights")
    tracker.log_files([weights])
    tracker.finish({"best/mAP_0.5": 0.5})


@pytest.fixture
def silent_server() -> Iterator[str]:
    """The address of a server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


# -- MLflow -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    pytest.importorskip("mlflow", reason="mlflow is not installed")
    folder = tmp_path_factory.mktemp("mlflow")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    store = ["--backend-store-uri", f"sqlite:///{folder}/db", "--artifacts-destination", str(folder / "artifacts")]
    command = [sys.executable, "-m", "mlflow", "server", *store, "--port", str(port), "--workers", "1"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, start_new_session=True)
        address, deadline = f"http://127.0.0.1:{port}", time.time() + 180
        while True:
            try:
                with urllib.request.urlopen(f"{address}/health", timeout=5):
                    break
            except OSError:
                assert process.poll() is None, (folder / "log").read_text()
                assert time.time() < deadline, (folder / "log").read_text()
                time.sleep(0.3)
        yield address
        process.terminate()
        process.wait(60)


def test_mlflow_server(mlflow_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.tracking import MlflowClient

    from utils.loggers.mlflow import MLflowTracker

    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server)
    run = make_run(tmp_path / "exp")
    log_short_run(MLflowTracker(), run)
    client = MlflowClient(tracking_uri=mlflow_server)
    experiment = client.get_experiment_by_name("shapes")
    (logged,) = client.search_runs([experiment.experiment_id])
    assert logged.info.run_name == "exp"
    assert logged.info.status == "FINISHED"
    assert logged.data.params == {"lr0": "0.01", "cfg": "net.yaml"}
    assert logged.data.metrics["metrics/mAP_0.5_0.95_B"] == 0.125
    assert logged.data.metrics["best/mAP_0.5"] == 0.5
    history = client.get_metric_history(logged.info.run_id, "train/box_loss")
    assert [(point.step, point.value) for point in history] == [(0, 0.5), (1, 0.5)]
    names = {entry.path for entry in client.list_artifacts(logged.info.run_id)}
    assert {"weights", "images", "data-v2"} <= names
    file = client.download_artifacts(logged.info.run_id, "weights/best.pt", str(tmp_path))
    assert Path(file).read_bytes() == b"weights"
    log_short_run(MLflowTracker(), make_run(tmp_path / "exp", start_epoch=2))  # resumed: the same run
    assert len(client.search_runs([experiment.experiment_id])) == 1
    assert len(client.get_metric_history(logged.info.run_id, "train/box_loss")) == 4


def test_mlflow_in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow", reason="mlflow is not installed")
    from mlflow.tracking import MlflowClient

    from utils.loggers.mlflow import MLflowTracker

    monkeypatch.setenv("MLFLOW_TRACKING_URI", str(tmp_path / "runs"))
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE", raising=False)
    log_short_run(MLflowTracker(), make_run(tmp_path / "exp"))
    client = MlflowClient(tracking_uri=str(tmp_path / "runs"))
    runs = client.search_runs([client.get_experiment_by_name("shapes").experiment_id])
    assert runs[0].data.metrics["train/box_loss"] == 0.5


def test_mlflow_server_that_is_absent_or_silent(silent_server: str, tiny_data: Path, tmp_path: Path) -> None:
    """A training run in a process of its own: it ends in time, with its files and one warning."""
    pytest.importorskip("mlflow", reason="mlflow is not installed")
    train = (
        "import sys, utils.loggers.callback as callback, train\n"
        "from utils.core.script import run_script\n"
        "callback.CLOSE_WAIT_S = 1.0\n"
        "run_script(lambda: train.main(sys.argv[1:]))\n"
    )
    flags = ("--weights", "", "--cfg", "yolov5n.yaml", "--img", "64", "--batch", "4", "--workers", "0", "--noplots")
    arguments = ["--data", str(tiny_data), *flags, "--device", "cpu", "--epochs", "2", "--noautoanchor"]
    import os

    for name, address in (("silent", silent_server), ("absent", "http://127.0.0.1:9")):
        done = subprocess.run(
            [sys.executable, "-c", train, *arguments, "--project", str(tmp_path), "--name", name],
            cwd=Path(__file__).resolve().parents[3],
            env={**os.environ, "MLFLOW_TRACKING_URI": address},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("WARNING MLflow: ") == 1, done.stderr
        assert "Traceback" not in done.stderr
        assert (tmp_path / name / "weights/best.pt").exists()


# -- Weights & Biases ---------------------------------------------------------------------------------------------


def log_payloads(data: bytes) -> Iterator[bytes]:
    """Records of a file in LevelDB's log format (its doc/log_format.md), after wandb's own header of 7 bytes."""
    at, record = 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:  # no room for a header: the rest of the block is filled up
            at += 32768 - at % 32768
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        record += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield record
            record = b""


def wandb_records(folder: Path) -> list[Any]:
    """What the offline runs below a folder hold."""
    from wandb.proto import wandb_internal_pb2

    files = sorted(folder.glob("wandb/offline-run-*/run-*.wandb"))
    return [
        wandb_internal_pb2.Record.FromString(payload) for file in files for payload in log_payloads(file.read_bytes())
    ]


def test_wandb_offline_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed")
    from utils.loggers.wandb import WandbTracker

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    run = make_run(tmp_path / "exp", entity="somebody")
    log_short_run(WandbTracker(), run)
    deadline, records = time.time() + 60, wandb_records(run.folder)
    while "exit" not in {record.WhichOneof("record_type") for record in records}:  # its service writes behind
        assert time.time() < deadline, list(run.folder.rglob("*"))
        time.sleep(0.2)
        records = wandb_records(run.folder)
    started = next(record.run for record in records if record.WhichOneof("record_type") == "run")
    assert (started.display_name, started.project, started.entity) == ("exp", "shapes", "somebody")
    assert {item.key: json.loads(item.value_json) for item in started.config.update}["lr0"] == 0.01
    rows = [
        {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
        for record in records
        if record.WhichOneof("record_type") == "history"
    ]
    assert [(row["epoch"], row["train/box_loss"]) for row in rows if "train/box_loss" in row] == [(0, 0.5), (1, 0.5)]
    text = json.dumps(rows)
    assert "image-file" in text
    assert "boxes/all_boxes" in text
    artifacts = [record.artifact for record in records if record.WhichOneof("record_type") == "artifact"]
    artifacts += [r.request.log_artifact.artifact for r in records if r.request.HasField("log_artifact")]
    assert "v2" in next(artifact.aliases for artifact in artifacts if artifact.type == "dataset")
    assert json.loads((run.folder / "loggers.json").read_text())["wandb"] == started.run_id


def test_wandb_does_not_prompt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    wandb = pytest.importorskip("wandb", reason="wandb is not installed")
    from utils.loggers.wandb import WandbTracker

    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    if wandb.api.api_key:
        pytest.skip("this machine has a key of its own")
    with pytest.raises(RuntimeError, match="WANDB_MODE=offline"):
        WandbTracker().load()


# -- ClearML, Comet -----------------------------------------------------------------------------------------------


def test_comet_offline_experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("comet_ml", reason="comet_ml is not installed")
    from utils.loggers.comet import CometTracker

    monkeypatch.delenv("COMET_API_KEY", raising=False)
    monkeypatch.setenv("COMET_OFFLINE_DIRECTORY", str(tmp_path / "runs"))
    log_short_run(CometTracker(), make_run(tmp_path / "exp"))
    (archive,) = (tmp_path / "runs").glob("*.zip")
    with zipfile.ZipFile(archive) as packed:
        text = packed.read("messages.json").decode()
    assert "train/box_loss" in text
    assert "best/mAP_0.5" in text


def test_clearml_offline_session(tmp_path: Path) -> None:
    """In a process of its own, as ClearML allows one task a process."""
    pytest.importorskip("clearml", reason="clearml is not installed")
    import os

    code = (
        "import sys; from pathlib import Path\n"
        "sys.path.insert(0, str(Path(sys.argv[1]) / 'tests/utils/loggers'))\n"
        "from test_services import log_short_run, make_run\n"
        "from utils.loggers.clearml import ClearMLTracker\n"
        "log_short_run(ClearMLTracker(), make_run(Path(sys.argv[2]) / 'exp'))\n"
    )
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run(
        [sys.executable, "-c", code, str(root), str(tmp_path)],
        cwd=root,
        env={**os.environ, "CLEARML_OFFLINE_MODE": "1", "CLEARML_CACHE_DIR": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    archives = list((tmp_path / "cache").rglob("*.zip"))
    assert archives, done.stdout + done.stderr
    with zipfile.ZipFile(archives[0]) as packed:
        text = b"".join(packed.read(name) for name in packed.namelist()).decode(errors="replace")
    assert "box_loss" in text
    assert "mAP_0.5" in text

"""TensorBoard event file in the run folder."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from utils.loggers.base import RunInfo, Tracker


class EventFile:
    """TensorBoard event file, written record by record.

    `SummaryWriter` writes in a thread, where a full disk ends in a traceback and loses the queue. Here each call writes
    to the disk, and raises OSError if it fails.

    Args:
        folder: for `tensorboard --logdir`.
        purge_step: TensorBoard hides events of earlier files in the folder from this step on.

    Raises:
        ImportError: the package is not installed.
    """

    def __init__(self, folder: Path, *, purge_step: int) -> None:
        from tensorboard.compat.proto import event_pb2
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._event = event_pb2.Event
        name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{os.getpid()}.{purge_step}"
        self._records = RecordWriter((folder / name).open("ab", buffering=0))
        self.write(None, file_version="brain.Event:2")
        self.write(purge_step, session_log=event_pb2.SessionLog(status=event_pb2.SessionLog.START))

    def write(self, step: int | None, **content: Any) -> None:
        """Write one event: a `summary`, a `graph_def` or another field of the message."""
        event = self._event(wall_time=time.time(), step=step, **content)
        self._records.write(event.SerializeToString())

    def close(self) -> None:
        """Close the file."""
        self._records.close()


class TensorBoardTracker(Tracker):
    """Scalars, images, hparams and optionally the graph of the network in an event file.

    Args:
        graph: trace the network, which takes a second or two.
    """

    title = "TensorBoard"
    threaded = False

    def __init__(self, *, graph: bool = False) -> None:
        self.graph = graph
        self._file: EventFile | None = None

    def load(self) -> None:
        """Import the event messages."""
        from tensorboard.compat.proto import summary_pb2
        from torch.utils.tensorboard import summary

        self._summary, self._message = summary, summary_pb2.Summary

    def start(self, run: RunInfo) -> None:
        """Open the event file."""
        self._file = EventFile(run.folder, purge_step=run.start_epoch)
        self._params = to_plain_params(run.params)
        if self.graph and run.build_example is not None:
            self._file.write(None, graph_def=trace_graph(*run.build_example()))

    def log_scalars(self, values: Mapping[str, float], epoch: int) -> None:
        """Write one event per value."""
        for name, value in values.items():
            self._write(epoch, self._summary.scalar(name, value))

    def log_image(self, tag: str, encoded: bytes, epoch: int) -> None:
        """Write the encoded image; TensorBoard decodes it."""
        value = self._message.Value(tag=tag, image=self._message.Image(encoded_image_string=encoded, colorspace=3))
        self._write(epoch, self._message(value=[value]))

    def finish(self, metrics: Mapping[str, float] | None) -> None:
        """Write hparams with the metrics of the best weights, and close the file."""
        if self._file is None:
            return
        if metrics:
            for summary in self._summary.hparams(self._params, dict(metrics)):
                self._file.write(None, summary=summary)
            self.log_scalars(metrics, 0)
        self._file.close()
        self._file = None

    def _write(self, step: int, summary: Any) -> None:
        if self._file is None:
            raise OSError("the event file is closed")
        self._file.write(step, summary=summary)


def to_plain_params(params: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters as hparams take them: bool, int, float or str."""
    return {
        name: value if isinstance(value, bool | int | float | str) else str(value) for name, value in params.items()
    }


def trace_graph(model: Any, images: Any) -> Any:
    """Serialized TensorBoard graph of the network."""
    import warnings

    import torch
    from tensorboard.compat.proto.graph_pb2 import GraphDef
    from tensorboard.compat.proto.versions_pb2 import VersionDef
    from torch.utils.tensorboard import _pytorch_graph

    with torch.random.fork_rng(devices=[]), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about values that the trace makes constant
        trace = torch.jit.trace(model, images, check_trace=False, strict=False)
        nodes = _pytorch_graph.parse(trace.inlined_graph, trace, (images,))
    return GraphDef(node=nodes, versions=VersionDef(producer=22)).SerializeToString()

"""TensorBoard event file in the run folder."""

from __future__ import annotations

import os
import socket
import time
import warnings
from collections.abc import Mapping
from typing import Any

import torch

from utils.loggers.base import RunInfo, Tracker


class TensorBoardTracker(Tracker):
    """Scalars, images, hparams and optionally the graph of the network in an event file.

    `SummaryWriter` writes in a thread, where a full disk ends in a traceback and loses the queue. Here each call writes
    to the disk, and raises OSError if it fails.

    Args:
        graph: trace the network, which takes a second or two.
    """

    title = "TensorBoard"
    package = "tensorboard"
    flags = ("bbox_interval",)
    threaded = False

    def __init__(self, *, graph: bool = False) -> None:
        self.graph = graph

    def load(self) -> None:
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.record_writer import RecordWriter
        from torch.utils.tensorboard import summary

        self._summary, self._message, self._event, self._writer = summary, summary_pb2.Summary, event_pb2, RecordWriter

    def start(self, run: RunInfo) -> None:
        """Open an event file; TensorBoard hides events of earlier files in the folder from the start epoch on."""
        step = run.start_epoch
        name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{os.getpid()}.{step}"
        self._records: Any = self._writer((run.folder / name).open("ab", buffering=0))
        self._write(None, file_version="brain.Event:2")
        self._write(step, session_log=self._event.SessionLog(status=self._event.SessionLog.START))
        self._params = to_plain_params(run.params)
        if self.graph and run.build_example is not None:
            self._write(None, graph_def=trace_graph(*run.build_example()))

    def log_scalars(self, values: Mapping[str, float], epoch: int) -> None:
        for name, value in values.items():
            self._write(epoch, summary=self._summary.scalar(name, value))

    def log_image(self, tag: str, encoded: bytes, epoch: int) -> None:
        """Write the encoded image; TensorBoard decodes it."""
        value = self._message.Value(tag=tag, image=self._message.Image(encoded_image_string=encoded, colorspace=3))
        self._write(epoch, summary=self._message(value=[value]))

    def finish(self, metrics: Mapping[str, float] | None) -> None:
        """Write hparams with the metrics of the best weights, and close the file."""
        if metrics:
            for summary in self._summary.hparams(self._params, dict(metrics)):
                self._write(None, summary=summary)
            self.log_scalars(metrics, 0)
        self._records.close()

    def _write(self, step: int | None, **content: Any) -> None:
        """Write one event: a `summary`, a `graph_def` or another field of the message."""
        event = self._event.Event(wall_time=time.time(), step=step, **content)
        self._records.write(event.SerializeToString())


def to_plain_params(params: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters as hparams take them: bool, int, float or str."""
    return {
        name: value if isinstance(value, bool | int | float | str) else str(value) for name, value in params.items()
    }


def trace_graph(model: Any, images: Any) -> Any:
    """Serialized TensorBoard graph of the network."""
    from tensorboard.compat.proto.graph_pb2 import GraphDef
    from tensorboard.compat.proto.versions_pb2 import VersionDef
    from torch.utils.tensorboard import _pytorch_graph

    trace = trace_network(model, images)
    nodes = _pytorch_graph.parse(trace.inlined_graph, trace, (images,))
    return GraphDef(node=nodes, versions=VersionDef(producer=22)).SerializeToString()


def trace_network(model: Any, images: Any) -> Any:
    """The network as TorchScript, for its graph; random numbers stay as they are."""
    with torch.random.fork_rng(devices=[]), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about values that the trace makes constant
        return torch.jit.trace(model, images, check_trace=False, strict=False)

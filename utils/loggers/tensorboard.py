"""TensorBoard's event file in the run folder."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from utils.loggers.base import BoxedImage, RunFacts


class EventFile:
    """One file of TensorBoard events, written record by record.

    The writer of the package works in a thread, where a full disk ends in a traceback and a lost queue. This one is on
    the disk when a call returns, and an OSError is the caller's to handle.

    Args:
        folder: what `tensorboard --logdir` is given.
        purge_step: steps of earlier files in the folder from here on are hidden.

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
        """Write one event: a `summary`, a `graph_def` or what else the format has."""
        event = self._event(wall_time=time.time(), step=step, **content)
        self._records.write(event.SerializeToString())

    def close(self) -> None:
        """Close the file."""
        self._records.close()


class TensorBoardTracker:
    """Numbers, images, settings and, if asked for, the network's graph in TensorBoard's event file.

    Args:
        graph: draw the network, which takes a second or two.
    """

    title = "TensorBoard"

    def __init__(self, *, graph: bool = False) -> None:
        self.graph = graph
        self._file: EventFile | None = None

    def load(self) -> None:
        """Import what writes events."""
        from tensorboard.compat.proto import summary_pb2
        from torch.utils.tensorboard import summary

        self._summary, self._message = summary, summary_pb2.Summary

    def start(self, run: RunFacts) -> None:
        """Open the event file: what an earlier run logged from this epoch on is hidden."""
        self._file = EventFile(run.folder, purge_step=run.start_epoch)
        self._params = plain_params(run.params)
        if self.graph and run.sample is not None:
            self._file.write(None, graph_def=drawn_graph(*run.sample()))

    def scalars(self, values: Mapping[str, float], epoch: int) -> None:
        """One event for each number."""
        for name, value in values.items():
            self._write(epoch, self._summary.scalar(name, value))

    def image(self, tag: str, encoded: bytes, epoch: int) -> None:
        """The file's own bytes: the viewer decodes them."""
        value = self._message.Value(tag=tag, image=self._message.Image(encoded_image_string=encoded, colorspace=3))
        self._write(epoch, self._message(value=[value]))

    def boxes(self, images: Sequence[BoxedImage], epoch: int) -> None:
        """TensorBoard draws no boxes itself; the drawn batch has them."""

    def files(self, files: Sequence[Path]) -> None:
        """The event file lies beside them."""

    def finish(self, metrics: Mapping[str, float] | None) -> None:
        """Write the settings with the metrics of the best weights, and close the file."""
        if self._file is None:
            return
        if metrics:
            best = {name.replace("metrics/", "best/"): value for name, value in metrics.items()}
            for summary in self._summary.hparams(self._params, best):
                self._file.write(None, summary=summary)
            self.scalars(best, 0)
        self._file.close()
        self._file = None

    def _write(self, step: int, summary: Any) -> None:
        if self._file is None:
            raise OSError("its file is closed")
        self._file.write(step, summary=summary)


def plain_params(params: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as the hparams page takes them: numbers, truth values and text."""
    return {
        name: value if isinstance(value, bool | int | float | str) else str(value) for name, value in params.items()
    }


def drawn_graph(model: Any, images: Any) -> Any:
    """The network as TensorBoard's graph message."""
    import warnings

    import torch
    from tensorboard.compat.proto.graph_pb2 import GraphDef
    from tensorboard.compat.proto.versions_pb2 import VersionDef
    from torch.utils.tensorboard import _pytorch_graph

    with torch.random.fork_rng(devices=[]), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what a trace fixes: here nothing runs it
        trace = torch.jit.trace(model, images, check_trace=False, strict=False)
        nodes = _pytorch_graph.parse(trace.inlined_graph, trace, (images,))
    return GraphDef(node=nodes, versions=VersionDef(producer=22)).SerializeToString()

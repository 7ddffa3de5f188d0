"""TensorBoard's event file in the run folder."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from utils.logging import LOGGER


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


class TensorBoardLogger:
    """Scalars per epoch in TensorBoard's event file; does nothing, and says so once, where the package is missing.

    Args:
        save_dir: run folder, which is also what `tensorboard --logdir` is given.
    """

    def __init__(self, save_dir: str | Path) -> None:
        self.save_dir = Path(save_dir)
        self._file: EventFile | None = None
        self._wanted = True

    def on_fit_epoch_end(self, *, epoch: int, metrics: Mapping[str, float], **_: Any) -> None:
        """Log every metric at step `epoch` (from 0)."""
        if not self._wanted:
            return
        try:
            if self._file is None:
                self._file = EventFile(self.save_dir, purge_step=epoch)
            self._write_scalars(metrics, epoch)
        except ImportError as error:
            self._wanted = False
            LOGGER.info(f"No TensorBoard files: {error}. results.csv has the numbers; `pip install tensorboard`")
        except OSError as error:
            self._wanted = False
            LOGGER.warning(f"WARNING TensorBoard's file cannot be written ({error.strerror}); the run goes on without")

    def _write_scalars(self, metrics: Mapping[str, float], epoch: int) -> None:
        from torch.utils.tensorboard.summary import scalar

        assert self._file is not None
        for name, value in metrics.items():
            self._file.write(epoch, summary=scalar(name, float(value)))

    def on_train_end(self, **_: Any) -> None:
        """Close the event file."""
        self.teardown()

    def teardown(self, **_: Any) -> None:
        """Close the event file, if it is open."""
        if self._file is not None:
            self._file.close()
            self._file = None

from __future__ import annotations

import io
import logging
from pathlib import Path

import pytest

from utils.core.logging import FILE_ONLY, LOGGER, TERMINAL_ONLY, RunLog, open_run_log, setup_logging

pytestmark = pytest.mark.usefixtures("restore_log")


class Output(io.StringIO):
    def __init__(self, *, terminal: bool) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


@pytest.mark.parametrize(("terminal", "expected"), [(True, ["all", "table"]), (False, ["all", "line"])])
def test_each_output_gets_its_messages(terminal: bool, expected: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    output = Output(terminal=terminal)
    monkeypatch.setattr("sys.stderr", output)
    setup_logging()
    LOGGER.info("all")
    LOGGER.info("table", extra=TERMINAL_ONLY)
    LOGGER.info("line", extra=FILE_ONLY)
    assert output.getvalue().splitlines() == expected


def read(file: Path) -> list[str]:
    """The messages of a log without their times, which have 20 characters."""
    return [line[20:] for line in file.read_text(encoding="utf-8").splitlines()]


def test_a_run_log_has_earlier_messages(tmp_path: Path) -> None:
    LOGGER.setLevel(logging.INFO)
    file = tmp_path / "train.log"
    with RunLog():
        LOGGER.info("first %d", 1)
        open_run_log(file, append=False)
        LOGGER.info("\nsecond: 100 %")
        LOGGER.info("bar", extra=TERMINAL_ONLY)
        LOGGER.info("line", extra=FILE_ONLY)
        assert read(file) == ["first 1", "second: 100 %", "line"]  # at once, not at the end
    LOGGER.info("after")
    assert len(read(file)) == 3
    with pytest.raises(ValueError, match="why"), RunLog():
        open_run_log(file, append=True)
        raise ValueError("why")
    assert read(file)[3:] == ["ended by ValueError: why"]


def test_without_a_run_log_no_file_is_written(tmp_path: Path) -> None:
    open_run_log(tmp_path / "train.log", append=False)
    assert not list(tmp_path.iterdir())


def test_a_log_that_cannot_be_written_is_reported_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """/dev/full behaves like a full disk."""
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no /dev/full")
    LOGGER.setLevel(logging.INFO)
    with RunLog():
        open_run_log(full, append=True)
        LOGGER.info("one")
        LOGGER.info("two")
    assert caplog.text.count("/dev/full: cannot be written") == 1
    with RunLog():
        open_run_log(tmp_path / "no folder" / "train.log", append=False)
        LOGGER.info("three")
    assert caplog.text.count("train.log: cannot be written") == 1

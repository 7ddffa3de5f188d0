from __future__ import annotations

import io
import logging
from pathlib import Path

import pytest

from utils.core.logging import LOGGER, UNWATCHED, WATCHED, RunLog, log_to, setup_logging

pytestmark = pytest.mark.usefixtures("log_as_before")


class Screen(io.StringIO):
    def __init__(self, *, watched: bool) -> None:
        super().__init__()
        self.watched = watched

    def isatty(self) -> bool:
        return self.watched


@pytest.mark.parametrize(("watched", "expected"), [(True, ["all", "table"]), (False, ["all", "line"])])
def test_each_reader_gets_its_messages(watched: bool, expected: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen(watched=watched)
    monkeypatch.setattr("sys.stderr", screen)
    setup_logging()
    LOGGER.info("all")
    LOGGER.info("table", extra=WATCHED)
    LOGGER.info("line", extra=UNWATCHED)
    assert screen.getvalue().splitlines() == expected


def read(file: Path) -> list[str]:
    """The messages of a log without their times, which have 20 characters."""
    return [line[20:] for line in file.read_text(encoding="utf-8").splitlines()]


def test_a_run_log_has_what_was_said_before_it_had_a_name(tmp_path: Path) -> None:
    LOGGER.setLevel(logging.INFO)
    file = tmp_path / "train.log"
    with RunLog():
        LOGGER.info("first %d", 1)
        log_to(file, append=False)
        LOGGER.info("\nsecond: 100 %")
        LOGGER.info("bar", extra=WATCHED)
        LOGGER.info("line", extra=UNWATCHED)
        assert read(file) == ["first 1", "second: 100 %", "line"]  # at once, not at the end
    LOGGER.info("after")
    assert len(read(file)) == 3
    with pytest.raises(ValueError, match="why"), RunLog():
        log_to(file, append=True)
        raise ValueError("why")
    assert read(file)[3:] == ["ended by ValueError: why"]


def test_without_a_run_log_no_file_is_made(tmp_path: Path) -> None:
    log_to(tmp_path / "train.log", append=False)
    assert not list(tmp_path.iterdir())


def test_a_log_that_cannot_be_written_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """/dev/full refuses every byte as a full disk does."""
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no /dev/full")
    LOGGER.setLevel(logging.INFO)
    with RunLog():
        log_to(full, append=True)
        LOGGER.info("one")
        LOGGER.info("two")
    assert caplog.text.count("/dev/full: cannot be written") == 1
    with RunLog():
        log_to(tmp_path / "no folder" / "train.log", append=False)
        LOGGER.info("three")
    assert caplog.text.count("train.log: cannot be written") == 1

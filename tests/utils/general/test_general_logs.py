from __future__ import annotations

import argparse
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from utils import general
from utils.core.logging import LOGGER, setup_logging
from utils.general import logs

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level(logging.INFO, LOGGER.name):
        yield caplog


def run(code: str) -> tuple[str, str]:
    """Standard output and error of Python code in a new process."""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


# -- log --------------------------------------------------------------------------------------------------------------


def test_the_logger_prints_for_a_script() -> None:
    """On import, and once if a command of the project runs then."""
    code = """
from utils.general import LOGGER
import logging
LOGGER.info('one %d', 1)
LOGGER.error('two')
logging.getLogger('yolov5').info('three')
assert isinstance(logging.getLogger().handlers[0], logging.StreamHandler)
from utils.core.script import run_script
run_script(lambda: LOGGER.info('command'))
"""
    assert run(code) == ("", "one 1\ntwo\nthree\ncommand\n")


def test_a_script_may_configure_the_root_logger_afterwards() -> None:
    code = (
        "from utils.general import LOGGER; import logging; "
        "logging.basicConfig(format='root: %(message)s', level=logging.INFO); "
        "logging.info('own'); LOGGER.info('ours'); print(len(logging.getLogger().handlers))"
    )
    assert run(code) == ("1\n", "root: own\nours\n")


@pytest.mark.parametrize(
    ("rank", "verbose", "expected"),
    [(-1, "true", "info\nerror\n"), (0, "true", "info\nerror\n"), (1, "true", "error\n"), (-1, "false", "error\n")],
)
def test_importing_depends_on_the_rank(
    rank: int, verbose: str, expected: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(logs, "RANK", rank)
    monkeypatch.setenv("YOLOv5_VERBOSE", verbose)
    logs.prepare_import()
    logs.prepare_import()  # no second handler
    LOGGER.info("info")
    LOGGER.error("error")
    assert capsys.readouterr().err == expected


def test_importing_within_a_command_changes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    setup_logging(verbose=False)
    before = list(LOGGER.handlers)
    logs.prepare_import()
    assert (LOGGER.handlers, LOGGER.level) == (before, logging.WARNING)


@pytest.mark.parametrize(
    ("arguments", "level"),
    [
        ((), logging.INFO),
        (("yolov5", False), logging.WARNING),
        ((-1,), logging.INFO),
        ((0, True), logging.INFO),
        ((2,), logging.ERROR),
        ((None,), logging.INFO),
    ],
)
def test_set_logging(arguments: tuple[Any, ...], level: int) -> None:
    general.set_logging(*arguments)
    assert LOGGER.level == level
    assert len(LOGGER.handlers) == 1


def test_set_logging_of_another_logger(capsys: pytest.CaptureFixture[str]) -> None:
    general.set_logging("some_program")
    logging.getLogger("some_program").info("hello")
    assert capsys.readouterr().err == "hello\n"


def test_print_args_in_all_forms(log: pytest.LogCaptureFixture) -> None:
    def settings(imgsz: int, name: str) -> None:
        general.print_args()
        general.print_args({"a": 1}, show_file=False, show_func=True)
        general.print_args(vars(argparse.Namespace(b=2)))
        general.print_args("train", argparse.Namespace(c=3, d="x"))  # 6.0
        general.print_args("train", {"c": 3})

    settings(640, "exp")
    place = "test_general_logs: "
    assert log.messages == [
        f"{place}imgsz=640, name=exp",
        "settings: a=1",
        f"{place}b=2",
        "train: c=3, d=x",
        "train: c=3",
    ]


def test_colorstr() -> None:
    assert general.colorstr("red", "bold", "stop") == "\033[31m\033[1mstop\033[0m"
    assert general.colorstr("go") == "\033[34m\033[1mgo\033[0m"
    assert general.colorstr("bright_green", 5) == "\033[92m5\033[0m"


def test_methods() -> None:
    class Hooks:
        value = 1

        def on_start(self) -> None: ...
        def _private(self) -> None: ...

    assert general.methods(Hooks()) == ["_private", "on_start"]


# -- system -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("value", "expected"), [("plain", True), ("", True), (12.5, True), ("Größe", False)])
def test_is_ascii(value: Any, expected: bool) -> None:
    assert general.is_ascii(value) is expected


def test_is_chinese() -> None:
    assert general.is_chinese()
    assert general.is_chinese("cat 猫")
    assert not general.is_chinese("cat")
    assert not general.is_chinese("ねこ")


def test_notebooks_and_containers(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("COLAB_RELEASE_TAG", "KAGGLE_KERNEL_RUN_TYPE"):
        monkeypatch.delenv(name, raising=False)
    assert not general.is_colab()
    assert not general.is_kaggle()
    monkeypatch.setenv("COLAB_RELEASE_TAG", "release")
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Interactive")
    assert general.is_colab()
    assert general.is_kaggle()
    assert not general.is_notebook()
    shell = SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))  # type: ignore[arg-type]
    assert general.is_notebook()
    monkeypatch.setattr(Path, "exists", lambda path: str(path) == "/.dockerenv")
    assert general.is_docker()
    assert general.isdocker()


def test_is_pip() -> None:
    assert not general.is_pip()  # a checkout


@pytest.mark.parametrize("test", [False, True])
def test_is_writeable(test: bool, tmp_path: Path) -> None:
    assert general.is_writeable(tmp_path, test=test)
    assert not general.is_writeable(tmp_path / "missing", test=test)
    assert not list(tmp_path.iterdir())


# -- contexts ---------------------------------------------------------------------------------------------------------


def test_profile_adds_up(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([10.0, 12.5, 20.0, 21.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    profile = general.Profile(t=1.0)
    with profile as entered:
        assert entered is profile
    assert (profile.dt, profile.t) == (2.5, 3.5)

    @profile
    def work() -> str:
        return "done"

    assert work() == "done"
    assert (profile.dt, profile.t) == (1.0, 4.5)


def test_profile_time_is_a_clock() -> None:
    profile = general.Profile()
    assert profile.time() <= profile.time()


def sleep_in_steps(seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        time.sleep(0.01)


@pytest.mark.skipif(os.name == "nt", reason="needs SIGALRM")
def test_timeout() -> None:
    start = time.monotonic()
    with general.Timeout(0.05):
        sleep_in_steps(10)
    strict = general.Timeout(0.05, timeout_msg="too slow", suppress_timeout_errors=False)
    with pytest.raises(TimeoutError, match="too slow"), strict:
        sleep_in_steps(10)
    assert time.monotonic() - start < 5

    @general.Timeout(10)
    def quick() -> int:
        return 3

    assert quick() == 3
    with pytest.raises(KeyError), general.Timeout(10):
        raise KeyError
    sleep_in_steps(0.02)  # no alarm is left


def test_working_directory(tmp_path: Path) -> None:
    before = Path.cwd()
    with general.WorkingDirectory(tmp_path):
        assert Path.cwd() == tmp_path.resolve()
    assert Path.cwd() == before

    @general.WorkingDirectory(tmp_path)
    def get() -> Path:
        return Path.cwd()

    assert get() == tmp_path.resolve()
    with pytest.raises(ValueError, match="inside"), general.WorkingDirectory(tmp_path):
        raise ValueError("inside")
    assert Path.cwd() == before


def test_try_except_decorator(capsys: pytest.CaptureFixture[str]) -> None:
    fail: Callable[[], None] = general.try_except(lambda: int("x"))
    assert fail() is None
    assert "invalid literal" in capsys.readouterr().out

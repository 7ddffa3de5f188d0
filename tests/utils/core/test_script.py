from __future__ import annotations

import errno
import io
import signal
from collections.abc import Callable

import pytest

from utils.core.errors import InputError, StoppedError
from utils.core.script import run_script


def raises(error: BaseException) -> Callable[[], int]:
    def main() -> int:
        raise error

    return main


@pytest.mark.parametrize(
    ("main", "status", "line"),
    [
        (lambda: None, 0, ""),
        (lambda: 1, 1, ""),
        (raises(InputError("a.yaml:3: no")), 2, "error: a.yaml:3: no\n"),
        (raises(KeyboardInterrupt()), 130, "interrupted\n"),
        (raises(StoppedError(signal.SIGTERM)), 143, "terminated (SIGTERM)\n"),
        (
            raises(PermissionError(errno.EACCES, "Permission denied", "/runs/exp")),
            2,
            "error: /runs/exp: Permission denied; free space or choose another path\n",
        ),
        (
            raises(OSError(errno.ENOSPC, "No space left on device")),
            2,
            "error: No space left on device; free space or choose another path\n",
        ),
        (
            raises(RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. \nmore")),
            2,
            "error: DataLoader worker (pid 7) is killed by signal: Killed. Memory may be short: "
            "use fewer --workers or a smaller image size\n",
        ),
    ],
)
def test_exit_status_and_message(
    main: Callable[[], int | None], status: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        run_script(main)
    assert ended.value.code == status
    assert capsys.readouterr().err == line


def test_bugs_keep_their_traceback() -> None:
    with pytest.raises(FileNotFoundError):
        run_script(raises(FileNotFoundError(errno.ENOENT, "No such file", "x")))
    with pytest.raises(RuntimeError, match="shapes"):
        run_script(raises(RuntimeError("shapes differ")))
    with pytest.raises(ZeroDivisionError):
        run_script(raises(ZeroDivisionError()))


def test_exit_status_without_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("sys.stderr", Closed())
    with pytest.raises(SystemExit) as ended:
        run_script(raises(StoppedError(signal.SIGHUP)))
    assert ended.value.code == 129

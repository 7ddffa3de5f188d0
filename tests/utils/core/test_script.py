from __future__ import annotations

import errno
from collections.abc import Callable

import pytest

from utils.core.errors import InputError
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
        (
            raises(PermissionError(errno.EACCES, "Permission denied", "/runs/exp")),
            2,
            "error: /runs/exp: Permission denied; free the place or name another\n",
        ),
        (
            raises(OSError(errno.ENOSPC, "No space left on device")),
            2,
            "error: No space left on device; free the place or name another\n",
        ),
        (
            raises(RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. \nmore")),
            2,
            "error: DataLoader worker (pid 7) is killed by signal: Killed. Most often memory is short: "
            "give fewer --workers or a smaller size\n",
        ),
    ],
)
def test_how_a_command_ends(
    main: Callable[[], int | None], status: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        run_script(main)
    assert ended.value.code == status
    assert capsys.readouterr().err == line


def test_mistakes_of_ours_keep_their_traceback() -> None:
    with pytest.raises(FileNotFoundError):
        run_script(raises(FileNotFoundError(errno.ENOENT, "No such file", "x")))
    with pytest.raises(RuntimeError, match="shapes"):
        run_script(raises(RuntimeError("shapes differ")))
    with pytest.raises(ZeroDivisionError):
        run_script(raises(ZeroDivisionError()))

"""`python -m utils.datasets` as a command: help, exit statuses, messages."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def command(*flags: object, module: str = "utils.datasets", cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", module, *map(str, flags)]
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": ""}
    return subprocess.run(line, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120, check=False)


def test_help_of_the_command() -> None:
    done = command("--help")
    assert done.returncode == 0
    for name in ("check", "split", "convert", "crops"):
        assert f"\n  {name} " in done.stdout


def test_help_of_one() -> None:
    done = command("convert", "--help")
    assert done.stdout.startswith("usage: python -m utils.datasets convert")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("chekc",), "error: python -m utils.datasets chekc: no such command; there are check, split, convert, crops"),
        (("check", "--data", "none.yaml"), "error: --data none.yaml: no such file"),
        (("convert", "--from", "voc", "--source", "none", "--out", "x"), "no annotations"),
        (("convert", "--source", "none.yaml", "--out", "x"), "error: --data none.yaml: no such file"),
        (("split", "--images", "none"), "error: --images none: no such folder"),
    ],
)
def test_one_line_and_status_2(tmp_path: Path, flags: tuple[str, ...], message: str) -> None:
    done = command(*flags, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_statuses_of_check(tiny_data: Path, tmp_path: Path) -> None:
    assert command("check", "--data", tiny_data, "--noplots", cwd=tmp_path).returncode == 0
    text = tiny_data.read_text().replace("path: .", f"path: {tiny_data.parent}").replace(", 1: disc", "")
    (tmp_path / "fewer.yaml").write_text(text)
    done = command("check", "--data", "fewer.yaml", "--noplots", cwd=tmp_path)
    assert done.returncode == 1
    assert "classes that do not exist: 1 (" in done.stdout + done.stderr


def test_both_addresses_of_crops(tiny_data: Path, tmp_path: Path) -> None:
    for number, (module, *first) in enumerate((("utils.datasets", "crops"), ("utils.datasets.crops",))):
        out = tmp_path / str(number)
        done = command(*first, "--data", tiny_data, "--out", out, module=module, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert len(list(out.rglob("*.jpg"))) == 48

"""The notebook runs from the first cell to the last, on the tiny set."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
nbformat = pytest.importorskip("nbformat", reason="the notebook tools of requirements-dev.txt are not installed")
nbclient = pytest.importorskip("nbclient", reason="the notebook tools of requirements-dev.txt are not installed")


def test_notebook_executes(tiny_data: Path, tmp_path: Path) -> None:
    notebook = nbformat.read(ROOT / "docs/quickstart.ipynb", as_version=4)
    parameters = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    assert len(parameters) == 1
    parameters[0].source = f"epochs, imgsz = 1, 64\ndata = {str(tiny_data)!r}\nproject = {str(tmp_path / 'runs')!r}"
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(ROOT)}}).execute()
    assert (tmp_path / "runs/exp/weights/best.pt").exists()
    assert list((tmp_path / "runs-detect/exp").glob("*.jpg"))

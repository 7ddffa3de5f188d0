from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torchvision

from utils.ops import nms_kernel

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def fresh_cache() -> None:
    nms_kernel.load_nms_kernel.cache_clear()


def test_library_gives_the_result_of_the_package() -> None:
    """In a process of its own, where torchvision is not imported before."""
    program = (
        "import sys, torch\n"
        "from utils.ops.nms_kernel import load_nms_kernel\n"
        "kernel = load_nms_kernel()\n"
        "assert 'torchvision' not in sys.modules\n"
        "torch.manual_seed(0)\n"
        "corner = torch.rand(300, 2).double() * 100\n"
        "boxes, scores = torch.cat((corner, corner + torch.rand(300, 2) * 40), 1), torch.rand(300).double()\n"
        "kept = kernel(boxes, scores, 0.5)\n"
        "import torchvision\n"
        "assert torch.equal(kept, torchvision.ops.nms(boxes, scores, 0.5)) and 20 < len(kept) < 300\n"
        "assert torch.equal(kept, kernel(boxes, scores, 0.5))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_falls_back_to_the_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where the library cannot be loaded, as on systems that need the package's own search path for it."""
    (tmp_path / "_C.so").write_bytes(b"no library")
    monkeypatch.setattr(nms_kernel, "_find_libraries", lambda: [tmp_path / "_C.so"])
    monkeypatch.delitem(sys.modules, "torchvision")
    monkeypatch.setitem(sys.modules, "torchvision.ops", torchvision.ops)
    kernel = nms_kernel.load_nms_kernel()
    assert kernel is torchvision.ops.nms
    assert kernel(torch.tensor([[0.0, 0, 1, 1]]), torch.tensor([0.5]), 0.5).tolist() == [0]

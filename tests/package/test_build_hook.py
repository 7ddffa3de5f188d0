"""package/build_hook.py: source code of the checkout as source code of the package."""

from __future__ import annotations

import ast
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("from utils.core import files\n", "from openyolov5.utils.core import files\n"),
        ("def f():\n    from models import yolo\n", "def f():\n    from openyolov5.models import yolo\n"),
        ("from train import (\n    run,\n)\n", "from openyolov5.train import (\n    run,\n)\n"),
        ("import train\n", "from openyolov5 import train\n"),
        ("import train as t\n", "from openyolov5 import train as t\n"),
        ("import utils.core.files as f\n", "from openyolov5.utils.core import files as f\n"),
        ("class A:\n    __module__ = 'models.common'\n", None),
        ('class A:\n    __module__ = "models.common"\n', 'class A:\n    __module__ = "openyolov5.models.common"\n'),
        ("ü = 'é'; from utils import ops\n", "ü = 'é'; from openyolov5.utils import ops\n"),
        ("import trainer, utilities\nfrom . import utils\n", "import trainer, utilities\nfrom . import utils\n"),
        ('ADDRESSES = {"models.yolo": 1}\n', 'ADDRESSES = {"models.yolo": 1}\n'),
        ('"""`python -m utils.datasets check`"""\n', '"""`openyolov5 data check`"""\n'),
        ("# python segment/train.py --img 64\n", "# openyolov5 segment train --img 64\n"),
        ("# python models/yolo.py\n", "# python -m openyolov5.models.yolo\n"),
        ("f\"torch.hub.load('.', 'custom', path={x!r}, source='local')\"\n", 'f"openyolov5.load({x!r})"\n'),
        ("import sys\nif True:\n    sys.path[0] = 'x'\nx = 1\n", "import sys\n\n\nx = 1\n"),
        ("import os\nos.path.join('a')\n", "import os\nos.path.join('a')\n"),
    ],
)
def test_rewrite(source: str, expected: str | None, build_hook: ModuleType) -> None:
    if expected is None:
        with pytest.raises(ValueError, match=r'^a.py:2: write this as `"models.common"`$'):
            build_hook.rewrite(source, "a.py")
    else:
        assert build_hook.rewrite(source, "a.py") == expected


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import utils.core\n", r"^a.py:1: write `from ... import core`"),
        ("import os, utils\n", r"^a.py:1: import one module per statement"),
        ("\nimport_module('utils.core')\n", r"^a.py:2: names a module of the project; use utils.core.lazy"),
        ("importlib.import_module(f'utils.{x}')\n", r"^a.py:1: names a module of the project"),
    ],
)
def test_what_cannot_be_rewritten_is_an_error(source: str, message: str, build_hook: ModuleType) -> None:
    with pytest.raises(ValueError, match=message):
        build_hook.rewrite(source, "a.py")


def test_the_package_imports_nothing_of_the_checkout(build_hook: ModuleType, tmp_path: Path) -> None:
    build_hook.write_package(ROOT, tmp_path)
    files = sorted(tmp_path.rglob("*.py"))
    assert len(files) > 200
    for file in files:
        nodes = list(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
        names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
        names |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom) and not node.level}
        assert not [name for name in names if name.split(".")[0] in {*build_hook.OWN, "tests", "tools"}], file
    sources = {file.relative_to(ROOT) for name in ("models", "utils") for file in (ROOT / name).rglob("*.py")}
    assert sources <= {file.relative_to(tmp_path) for file in files}
    yamls = {file.relative_to(ROOT) for name in ("models", "data") for file in (ROOT / name).rglob("*.yaml")}
    assert yamls == {file.relative_to(tmp_path) for file in tmp_path.rglob("*.yaml")}

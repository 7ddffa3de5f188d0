"""Imports point one way, and the commands parse flags before torch is imported."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE_FILES = sorted(path for folder in ("models", "utils") for path in (ROOT / folder).rglob("*.py"))
FILES = PACKAGE_FILES + sorted(ROOT.glob("*.py")) + sorted((ROOT / "segment").glob("*.py"))

# Lowest first: a module imports modules of its own layer and of lower ones. The longest prefix counts.
LAYERS = [
    ("utils.core",),
    ("utils.config", "utils.ops", "utils.imaging", "utils.activations"),
    ("utils.tracking",),
    ("models",),
    ("utils.datasets", "utils.losses"),
    ("utils.plots",),
    ("utils.metrics", "utils.datasets.tools"),
    ("utils.tasks",),
    ("utils.backends",),
    ("utils.export", "utils.loggers"),
    ("utils.evaluate", "utils.predict"),
    ("utils.train",),
    ("utils.search", "utils.serve"),
    ("utils.commands",),
]
# Addresses that users import or run; nothing inside imports them.
PUBLIC = (
    *("utils.anchors", "utils.augmentations", "utils.autoanchor", "utils.autobatch", "utils.callbacks"),
    *("utils.dataloaders", "utils.demo", "utils.downloads", "utils.general", "utils.google_utils", "utils.loss"),
    *("utils.prune", "utils.segment", "utils.torch_utils", "utils.triton", "utils.utils"),
    *("utils.datasets.__main__", "utils.flask_rest_api", "utils.loggers.classic", "utils.metrics.classic"),
    *("utils.commands.git_info", "utils.plots.classic"),
)
# Cycles that a class address of official checkpoints forces, with the reason: none at present.
FORCED_CYCLES: dict[tuple[str, ...], str] = {}


def get_module_name(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {get_module_name(file) for file in FILES}


def is_skipped(node: ast.AST) -> bool:
    """Whether a block never runs on import: `if TYPE_CHECKING` and `if __name__ == "__main__"`."""
    return isinstance(node, ast.If) and ("TYPE_CHECKING" in ast.dump(node.test) or "__main__" in ast.dump(node.test))


def walk(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes, those within functions too, except skipped blocks."""
    for child in ast.iter_child_nodes(node):
        if not is_skipped(child):
            yield child
            yield from walk(child)


def list_imports(file: Path) -> set[str]:
    """Modules of this project that a file imports, at its top or within functions."""
    names: set[str] = set()
    for node in walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names if alias.name in MODULES}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                member = f"{node.module}.{alias.name}"
                names |= {member if member in MODULES else node.module} & MODULES
    return names - {get_module_name(file)}


def get_layer(module: str) -> int:
    """Position in LAYERS; -1 for packages without one."""
    prefixes = [(prefix, level) for level, layer in enumerate(LAYERS) for prefix in layer]
    matches = [
        (len(prefix), level) for prefix, level in prefixes if module == prefix or module.startswith(f"{prefix}.")
    ]
    return max(matches, default=(0, -1))[1]


def is_public(module: str) -> bool:
    return f"{module}.".startswith(tuple(f"{name}." for name in PUBLIC))


def find_cycle(graph: dict[str, set[str]]) -> list[str] | None:
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> list[str] | None:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return None
        for target in sorted(graph[name]):
            if cycle := visit(target, [*path, name]):
                return cycle
        done.add(name)
        return None

    return next((cycle for name in sorted(graph) if (cycle := visit(name, []))), None)


def test_no_import_cycle() -> None:
    graph = {get_module_name(file): list_imports(file) for file in FILES}
    for first, second in FORCED_CYCLES:
        graph[first].discard(second)
    assert find_cycle(graph) is None


def test_cycles_are_detected() -> None:
    assert find_cycle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == ["a", "b", "c", "a"]


def test_deferred_imports_count(tmp_path: Path) -> None:
    source = "def f() -> None:\n    from utils.core import files\n\nif __name__ == '__main__':\n    import train\n"
    file = ROOT / "utils" / "core" / "files.py"
    tree = list(walk(ast.parse(source)))
    assert sum(isinstance(node, ast.Import | ast.ImportFrom) for node in tree) == 1
    assert "utils.core.errors" in list_imports(file)


def test_every_package_has_a_layer() -> None:
    folders = {get_module_name(file).rpartition(".")[0] for file in PACKAGE_FILES if file.name != "__init__.py"}
    missing = {name for name in folders if name and get_layer(name) < 0 and not is_public(name)}
    assert missing == {"utils"}  # the public addresses


@pytest.mark.parametrize("prefix", [prefix for layer in LAYERS for prefix in layer])
def test_imports_point_down(prefix: str) -> None:
    level = get_layer(prefix)
    checked = 0
    for file in FILES:
        module = get_module_name(file)
        if is_public(module) or get_layer(module) != level or not f"{module}.".startswith(f"{prefix}."):
            continue
        checked += 1
        wrong = sorted(name for name in list_imports(file) if get_layer(name) > level or is_public(name))
        assert not wrong, f"{file.relative_to(ROOT)} imports {wrong}"
    assert checked


def test_root_of_utils_holds_public_addresses_only() -> None:
    loose = {f"utils.{path.stem}" for path in (ROOT / "utils").glob("*.py")} - {"utils.__init__"}
    assert loose == {
        name for name in PUBLIC if name.count(".") == 1 and (ROOT / "utils" / f"{name[6:]}.py").exists()
    } | {
        "utils.activations"  # classes of official checkpoints
    }


SCRIPTS = (
    *("train.py", "val.py", "test.py", "detect.py", "export.py", "benchmarks.py", "hubconf.py", "models/yolo.py"),
    *("classify/train.py", "classify/val.py", "classify/predict.py", "segment/train.py", "segment/val.py"),
    *("segment/predict.py", "utils/prune.py", "utils/datasets/__main__.py"),
    *(f"utils/datasets/__main__.py {command}" for command in ("check", "split", "convert", "crops", "fetch")),
)


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_needs_no_torch(script: str) -> None:
    path, *words = script.split()
    code = (
        "import sys, runpy\n"
        "class Refuse:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('torch', 'cv2', 'numpy', 'matplotlib', 'pandas'):\n"
        "            raise ImportError('heavy import: ' + name)\n"
        "sys.meta_path.insert(0, Refuse())\n"
        f"sys.argv = [{path!r}, *{words}, '--help']\n"
        f"runpy.run_path({path!r}, run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout


SLOW_PACKAGES = ("torchvision", "torch._dynamo", "matplotlib", "pandas", "tensorboard", "onnx", "onnxruntime", "scipy")
SLOW_PACKAGES += ("albumentations", "sympy", "faster_coco_eval")


def list_loaded(code: str, cwd: Path) -> list[str]:
    """The slow packages that a program has imported at its end."""
    program = f"{code}\nimport sys\nprint('loaded', *[name for name in {SLOW_PACKAGES} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], cwd=cwd, capture_output=True, text=True, check=True)
    return done.stdout.split("loaded")[-1].split()


@pytest.mark.parametrize("module", ["utils.predict.run", "utils.evaluate.run", "utils.train.setup", "hubconf"])
def test_slow_packages_are_imported_where_they_are_used(module: str) -> None:
    assert list_loaded(f"import {module}", ROOT) == []


def test_detection_imports_no_slow_package(tmp_path: Path) -> None:
    """A whole run of detect.py: reading the checkpoint, forward pass, NMS, drawing and writing."""
    from tests.detect_process import save_random_weights

    weights = save_random_weights(tmp_path / "random.pt")
    code = (
        "import detect\n"
        f"detect.run(weights={str(weights)!r}, source='data/images/cat.jpg', imgsz=64, conf_thres=0.0, device='cpu', "
        f"project={str(tmp_path)!r}, save_txt=True)"
    )
    assert list_loaded(code, ROOT) == []

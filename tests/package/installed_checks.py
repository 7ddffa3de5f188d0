"""What an installed package gives, as JSON: `installed_checks.py WEIGHTS IMAGE`, run outside the checkout."""

from __future__ import annotations

import importlib
import json
import pickle
import pkgutil
import sys
from typing import Any

CHECKOUT = {"models", "utils", "segment", "classify", "train", "val", "detect", "export", "benchmarks", "hubconf"}


def list_modules(package: Any) -> list[str]:
    """Names of all modules of a package, without those that run when imported."""
    return [info.name for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")]


def record_lazy_exports() -> list[tuple[str, str]]:
    """A list to which modules imported from now on add (module, name) of their lazy exports."""
    from openyolov5.utils.core import lazy

    exports: list[tuple[str, str]] = []
    original = lazy.lazy_exports

    def record(module: str, names: dict[str, str]) -> Any:
        exports.extend((module, name) for name in names)
        return original(module, names)

    lazy.lazy_exports = record
    return exports


def check_package(weights: str, image: str) -> dict[str, Any]:
    """Import everything, and run a model."""
    path = list(sys.path)
    import openyolov5

    values: dict[str, Any] = {"light": "torch" not in sys.modules, "version": openyolov5.__version__}
    values["runs"] = [callable(getattr(openyolov5, name).run) for name in ("train", "val", "detect", "export")]
    values["scripts_are_light"] = "torch" not in sys.modules
    exports = record_lazy_exports()
    values["modules"] = [importlib.import_module(name).__name__ for name in list_modules(openyolov5)]
    values["lazy"] = [hasattr(importlib.import_module(module), name) for module, name in exports]
    values["checkout"] = sorted(CHECKOUT & {name.split(".")[0] for name in sys.modules})
    values["path_is_unchanged"] = path == sys.path
    model = openyolov5.load(weights, "cpu")
    model.conf = 0.0
    values["boxes"] = model(image, size=64).xyxy[0].tolist()
    values["address"] = type(model).__module__
    values["pickled_boxes"] = pickle.loads(pickle.dumps(model))(image, size=64).xyxy[0].tolist()
    try:
        openyolov5.nothing  # noqa: B018
    except AttributeError as error:
        values["missing"] = str(error)
    return values


def check_compat(weights: str, image: str) -> dict[str, Any]:
    """The interface of the package `yolov5`."""
    import openyolov5
    import yolov5
    from yolov5 import detect, export, train, val
    from yolov5.classify import predict as classify
    from yolov5.cli import split_include
    from yolov5.models.common import AutoShape
    from yolov5.segment import predict as segment
    from yolov5.utils import general

    own = (openyolov5.train, openyolov5.val, openyolov5.detect, openyolov5.export)
    values: dict[str, Any] = {"version": yolov5.__version__, "same_scripts": (train, val, detect, export) == own}
    values["names"] = [general.__name__, general.__spec__.name, classify.__name__, segment.__name__]
    model = yolov5.load(weights, device="cpu")
    values["class"] = [type(model).__module__, isinstance(model, AutoShape)]
    model.conf = 0.0
    values["boxes"] = model(image, size=64).xyxy[0].tolist()
    values["pickled"] = type(pickle.loads(pickle.dumps(model))) is AutoShape
    wrapped = yolov5.YOLOv5(weights, "cpu", load_on_init=False)
    wrapped.load_model()
    wrapped.model.conf = 0.0
    values["predicted"] = [boxes.tolist() for boxes in wrapped.predict([image, image], size=64).xyxy]
    values["words"] = split_include(["export", "--include", "onnx,tflite", "--weights", "a,b.pt"])
    values["errors"] = []
    for statement in (lambda: yolov5.nothing, lambda: importlib.import_module("yolov5.utils.nothing")):
        try:
            statement()
        except (AttributeError, ImportError) as error:
            values["errors"].append(f"{type(error).__name__}: {error}")
    return values


if __name__ == "__main__":
    print(json.dumps({"package": check_package(*sys.argv[1:]), "compat": check_compat(*sys.argv[1:])}))

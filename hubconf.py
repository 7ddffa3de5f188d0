"""PyTorch Hub models: `torch.hub.load("path/to/openyolov5", "custom", path="best.pt", source="local")`.

Entry points import the packages `models` and `utils` of this project when they are called.
As a script, `python hubconf.py --model yolov5s` prints the detections of a model in data/images.
"""

from __future__ import annotations

import importlib.util
import numbers
import pathlib
import sys
import typing

dependencies = [
    "cv2",
    "numpy",
    "PIL",
    "torch",
    "torchvision",
    "tqdm",
    "yaml",
]  # checked by torch.hub

_ROOT = pathlib.Path(__file__).resolve().parent
if __package__:  # imported as `yolov5.hubconf`: find the packages beside this file
    sys.path.append(str(_ROOT))
_CLASSIFIER = "-cls"  # suffix of classifier names
_PREFIX = "openyolov5." if (_ROOT / "py.typed").exists() else ""  # the installed package, or a checkout
_PACKAGES = (f"{_PREFIX}models", f"{_PREFIX}utils")


def custom(
    path: typing.Any = "path/to/model.pt",
    autoshape: bool = True,
    _verbose: bool = True,
    device: typing.Any = None,
    *,
    trust: bool = False,
    threads: int | None = None,
) -> typing.Any:
    """A model from a file of any format that detect.py supports, or an ensemble of several .pt files.

    Args:
        path: file or list of files; a name without suffix gets `.pt`.
        autoshape: fuse batch norm and wrap the model in `AutoShape`, which takes images and returns `Detections`.
        _verbose: log information, not only warnings.
        device: "cpu", 0, "cuda:0" or a torch.device; None means CUDA if available.
        trust: load an exported file even if it can do more than compute (see docs/exports.md).
        threads: number of CPU threads; None chooses it by a short trial, unless OMP_NUM_THREADS is set.
    """
    _set_up(_verbose)
    return _load_file(path, autoshape, device, trust=trust, threads=threads)


def _make_entry(name: str, num_classes: int = 80) -> typing.Callable[..., typing.Any]:
    """The entry point of a model, whose official weights have `num_classes` classes."""

    def entry(
        pretrained: bool = True,
        channels: int = 3,
        classes: int = num_classes,
        autoshape: bool = True,
        _verbose: bool = True,
        device: typing.Any = None,
    ) -> typing.Any:
        _set_up(_verbose)
        if pretrained and (channels, classes) == (3, num_classes):
            return _load_file(f"{name}.pt", autoshape, device)
        return _build_model(name, pretrained, channels, classes, device)

    entry.__name__ = entry.__qualname__ = name
    data = "ImageNet" if name.endswith(_CLASSIFIER) else "COCO"
    entry.__doc__ = f"""{name}, trained on {data}; or a model for training with other channels or classes.

    Args:
        pretrained: load the official weights, from the working directory or the official release. With other channels
            or classes, matching weights are transferred to a new model, which is not wrapped; with False, none are.
        channels, classes: input channels and number of classes.
        autoshape, _verbose, device: as for `custom`.
    """
    return entry


yolov5n, yolov5s, yolov5m, yolov5l, yolov5x = (_make_entry(f"yolov5{size}") for size in "nsmlx")
yolov5n6, yolov5s6, yolov5m6, yolov5l6, yolov5x6 = (_make_entry(f"yolov5{size}6") for size in "nsmlx")
globals().update({f"yolov5{size}-seg": _make_entry(f"yolov5{size}-seg") for size in "nsmlx"})
globals().update({f"yolov5{size}{_CLASSIFIER}": _make_entry(f"yolov5{size}{_CLASSIFIER}", 1000) for size in "nsmlx"})


def _create(
    name: typing.Any,
    pretrained: bool = True,
    channels: int = 3,
    classes: int = 80,
    autoshape: bool = True,
    verbose: bool = True,
    device: typing.Any = None,
) -> typing.Any:
    """A model from a name such as "yolov5s", or from a file; arguments as for the entry points of the names."""
    _set_up(verbose)
    if pretrained and (channels, classes) == (3, 80):
        return _load_file(name, autoshape, device)
    return _build_model(pathlib.Path(name).stem, pretrained, channels, classes, device)


def _set_up(verbose: bool) -> None:
    """Set up logging; ImportError if other modules have the names of this project's packages."""
    for name in _PACKAGES:
        spec = sys.modules[name].__spec__ if name in sys.modules else importlib.util.find_spec(name)
        place = (spec.origin or next(iter(spec.submodule_search_locations or ()), None)) if spec else None
        if not place or pathlib.Path(place).resolve().parent != _ROOT / name.removeprefix(_PREFIX):
            raise ImportError(
                f"OpenYOLOv5 needs its own package {name!r} in {_ROOT}, but this program imports {place or 'no file'}; "
                "rename that one, or load the model in a separate process",
                name=name,
                path=place,
            )
    from utils.core.logging import setup_logging

    setup_logging(verbose=verbose)


def _load_file(
    path: typing.Any,
    autoshape: bool,
    device: typing.Any,
    *,
    trust: bool = False,
    threads: int | None = None,
) -> typing.Any:
    """Load a model file and wrap it if `autoshape`."""
    from utils.predict.autoshape import AutoShape
    from utils.predict.multi_backend import DetectMultiBackend, add_pt_suffix

    paths = path if isinstance(path, list | tuple) else [path]
    files = [add_pt_suffix(file) for file in paths]
    model = DetectMultiBackend(files, device=_select_device(device), fuse=autoshape, trust=trust, threads=threads)
    return AutoShape(model) if autoshape else model


def _build_model(name: str, pretrained: bool, channels: int, classes: int, device: typing.Any) -> typing.Any:
    """Build a model and transfer matching official weights if `pretrained`."""
    from models.checkpoint import transfer_weights
    from utils.core.errors import InputError
    from utils.core.logging import LOGGER
    from utils.tasks.networks import find_weights, load_checkpoint

    for setting, value in (("channels", channels), ("classes", classes)):
        if not isinstance(value, numbers.Integral) or value < 1:
            raise InputError(f"{name}: {setting} {value!r} is not a positive integer")
    model = _build_network(name, channels, classes)
    if pretrained:
        checkpoint = load_checkpoint(find_weights(f"{name}.pt"))
        transferred, total = transfer_weights(model, checkpoint.state_dict, exclude=("anchor",))
        LOGGER.info(f"{checkpoint.path}: {transferred}/{total} items transferred")
        if len(checkpoint.names) == classes:
            model.names = checkpoint.names
    return model.to(_select_device(device))


def _build_network(name: str, channels: int, classes: int) -> typing.Any:
    """Build a network with random weights; a classifier from the graph of its detector."""
    from models.classifiers import build_classifier
    from models.graph import load_model_yaml
    from utils.tasks.networks import build_model

    file = next((_ROOT / "models").rglob(f"{name.removesuffix(_CLASSIFIER)}.yaml"))
    if name.endswith(_CLASSIFIER):
        return build_classifier({**load_model_yaml(file), "ch": channels}, classes)
    return build_model(file, ch=channels, nc=classes)


def _select_device(requested: typing.Any) -> typing.Any:
    """Select and log the device."""
    from utils.core.device import describe_device, select_device
    from utils.core.logging import LOGGER

    device = select_device("" if requested is None else str(requested))
    LOGGER.info(describe_device(device))
    return device


def _main(argv: typing.Sequence[str] | None = None) -> None:
    """Command-line entry point."""
    import argparse

    parser = argparse.ArgumentParser(prog="hubconf.py", description="Print the detections of a model in data/images.")
    parser.add_argument("--model", default="yolov5s", help="model name or file (default: yolov5s)")
    model = custom(parser.parse_args(argv).model)

    from utils.imaging.read import IMAGE_SUFFIXES

    files = sorted(file for file in (_ROOT / "data" / "images").iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
    model(files).print()


if __name__ == "__main__":
    from utils.core.script import run_script

    run_script(_main)

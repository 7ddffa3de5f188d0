"""Models for other programs: `torch.hub.load("path/to/openyolov5", "custom", path="best.pt", source="local")`.

Loading imports this project's packages `models` and `utils`, and nothing is imported before a model is asked for.
As a script, `python hubconf.py --model yolov5s` loads a model and prints what it finds in data/images.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import numbers
import pathlib
import sys
import typing

dependencies = ["cv2", "numpy", "PIL", "torch", "torchvision", "tqdm", "yaml"]  # torch.hub looks whether they are there

_ROOT = pathlib.Path(__file__).resolve().parent
_CLASSIFIER = "-cls"  # ending of the names of classifiers
_PACKAGES = ("models", "utils")  # at the top level, where official checkpoints and other programs look for them


def custom(
    path: typing.Any = "path/to/model.pt",
    autoshape: bool = True,
    _verbose: bool = True,
    device: typing.Any = None,
) -> typing.Any:
    """A model from a file of any format that detect.py takes, or an ensemble of several .pt files.

    Args:
        path: file, from the working directory, or several; a name without suffix gets `.pt`.
        autoshape: wrap the model, batch norms fused, so that it takes images of any kind and gives `Detections`.
        _verbose: log more than warnings.
        device: "cpu", 0, "cuda:0", a torch.device; None takes CUDA where there is one.
    """
    hidden = _check_packages()
    _set_up(_verbose, hidden)
    return _load_file(path, autoshape, device)


def _entry(name: str, known: int = 80) -> typing.Callable[..., typing.Any]:
    """The entry point of a shipped graph, whose official weights have `known` classes."""

    def entry(
        pretrained: bool = True,
        channels: int = 3,
        classes: int = known,
        autoshape: bool = True,
        _verbose: bool = True,
        device: typing.Any = None,
    ) -> typing.Any:
        hidden = _check_packages()
        _set_up(_verbose, hidden)
        if pretrained and (channels, classes) == (3, known):
            return _load_file(f"{name}.pt", autoshape, device)
        return _build(name, pretrained, channels, classes, device)

    entry.__name__ = entry.__qualname__ = name
    data = "ImageNet" if name.endswith(_CLASSIFIER) else "COCO"
    entry.__doc__ = f"""{name}, trained on {data}; or its graph for training with other channels or classes.

    Args:
        pretrained: take the official weights, from the working directory or the official release. Without it, or with
            other channels or classes, a network is built, which gets those of the weights that fit if `pretrained`,
            and is not wrapped.
        channels, classes: of the network.
        autoshape, _verbose, device: as for `custom`.
    """
    return entry


yolov5n, yolov5s, yolov5m, yolov5l, yolov5x = (_entry(f"yolov5{size}") for size in "nsmlx")
yolov5n6, yolov5s6, yolov5m6, yolov5l6, yolov5x6 = (_entry(f"yolov5{size}6") for size in "nsmlx")
globals().update({f"yolov5{size}-seg": _entry(f"yolov5{size}-seg") for size in "nsmlx"})  # torch.hub asks by text
globals().update({f"yolov5{size}{_CLASSIFIER}": _entry(f"yolov5{size}{_CLASSIFIER}", 1000) for size in "nsmlx"})


def _check_packages() -> list[str]:
    """Files that our packages hide from now on; ImportError where others hide ours."""
    hidden = []
    for name in _PACKAGES:
        loaded = sys.modules.get(name)
        place = _place_of(loaded) if loaded else _found(name, None)
        if place is None or _ROOT / name not in (place, place.parent):
            happened = "has already imported" if loaded else "would import"
            reason = f"this program {happened} another one from {place}" if place else "it is not on sys.path"
            raise ImportError(
                f"OpenYOLOv5 needs its own package {name!r} in {_ROOT}, but {reason}; "
                "rename that one, or load the model in a process of its own",
                name=name,
                path=None if place is None else str(place),
            )
        others = [folder for folder in sys.path if pathlib.Path(folder or ".").resolve() != _ROOT]
        if not loaded and (other := _found(name, others)):
            hidden.append(str(other))
    return hidden


def _found(name: str, folders: list[str] | None) -> pathlib.Path | None:
    """The file that `import name` would find in these folders (None: on sys.path), folders without code left out."""
    spec = importlib.machinery.PathFinder.find_spec(name, folders)
    return pathlib.Path(spec.origin).resolve() if spec and spec.origin else None


def _place_of(module: typing.Any) -> pathlib.Path:
    """File or folder of a loaded module."""
    places = [getattr(module, "__file__", None), *getattr(module, "__path__", ())]
    place = next((place for place in places if place), None)
    return pathlib.Path(place).resolve() if place else pathlib.Path("a module without a file")


def _set_up(verbose: bool, hidden: list[str]) -> None:
    """Logging as asked for, and a warning for each hidden file."""
    from utils.core.logging import LOGGER, setup_logging

    setup_logging(verbose=verbose)
    for file in hidden:
        LOGGER.warning(f"WARNING {file}: `import` gives OpenYOLOv5's package of that name from now on, not this file")


def _load_file(path: typing.Any, autoshape: bool, device: typing.Any) -> typing.Any:
    """The model of a file, wrapped where that is wanted."""
    from utils.backends.multi import DetectMultiBackend, with_suffix
    from utils.predict.autoshape import AutoShape

    several = isinstance(path, list | tuple)
    files = [with_suffix(file) for file in (path if several else [path])]
    model = DetectMultiBackend(files, device=_device(device), fuse=autoshape)
    return AutoShape(model) if autoshape else model


def _build(name: str, pretrained: bool, channels: int, classes: int, device: typing.Any) -> typing.Any:
    """A shipped graph, with those official weights that fit if `pretrained`."""
    from models.checkpoint import find_weights, load_checkpoint, transfer_weights
    from utils.core.logging import LOGGER

    _check_counts(name, channels=channels, classes=classes)
    model = _graph(name, channels, classes)
    if pretrained:
        checkpoint = load_checkpoint(find_weights(f"{name}.pt"))
        copied, total = transfer_weights(model, checkpoint.state_dict, exclude=("anchor",))
        LOGGER.info(f"{checkpoint.path}: {copied} of {total} items copied")
        if len(checkpoint.names) == classes:
            model.names = checkpoint.names
    return model.to(_device(device))


def _check_counts(name: str, **counts: typing.Any) -> None:
    """InputError where one is no positive integer."""
    from utils.core.errors import InputError

    for setting, value in counts.items():
        if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < 1:
            raise InputError(f"{name}: {setting} {value!r} is not a positive integer")


def _graph(name: str, channels: int, classes: int) -> typing.Any:
    """The network of a shipped graph with random weights; a classifier is cut from its detector's."""
    from models.classifiers import build_classifier
    from models.graph import load_model_yaml
    from models.yolo import build_model

    file = next((_ROOT / "models").rglob(f"{name.removesuffix(_CLASSIFIER)}.yaml"))
    if name.endswith(_CLASSIFIER):
        return build_classifier({**load_model_yaml(file), "ch": channels}, classes)
    return build_model(file, ch=channels, nc=classes)


def _device(wanted: typing.Any) -> typing.Any:
    """The device asked for, named in the log."""
    from utils.core.device import describe_device, select_device
    from utils.core.logging import LOGGER

    device = select_device("" if wanted is None else str(wanted))
    LOGGER.info(describe_device(device))
    return device


def _main(argv: typing.Sequence[str] | None = None) -> None:
    """Command line entry."""
    import argparse

    parser = argparse.ArgumentParser(prog="hubconf.py", description="Print what a model finds in data/images.")
    parser.add_argument("--model", default="yolov5s", help="a name, or a model file (default: yolov5s)")
    model = custom(parser.parse_args(argv).model)

    from utils.imaging.read import IMAGE_SUFFIXES

    files = sorted(file for file in (_ROOT / "data" / "images").iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
    model(files).print()


if __name__ == "__main__":
    from utils.core.script import run_script

    run_script(_main)

"""val.py, segment/val.py and classify/val.py."""

from __future__ import annotations

import tempfile
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import yaml

from utils.commands.base import Command
from utils.config.namespaces import name_positionals
from utils.config.val import ValConfig
from utils.core.logging import LOGGER

if TYPE_CHECKING:
    import numpy as np

    Results = tuple[tuple[float, ...], np.ndarray, tuple[float, float, float]]

COMMON = (
    "data weights batch_size imgsz conf_thres iou_thres max_det task device workers single_cls augment verbose "
    "save_txt save_hybrid save_conf save_json project name exist_ok half dnn model dataloader save_dir plots"
)
VAL_ORDER = f"{COMMON} callbacks compute_loss"
SEGMENT_ORDER = f"{COMMON} overlap mask_downsample_ratio compute_loss callbacks"
CLASSIFY_ORDER = (
    "data weights batch_size imgsz device workers verbose project name exist_ok half dnn model dataloader criterion "
    "pbar"
)
TEST_ORDER = (  # of release 5.0
    "data weights batch_size imgsz conf_thres iou_thres save_json single_cls augment verbose model dataloader save_dir "
    "save_txt save_hybrid save_conf plots wandb_logger compute_loss half is_coco"
)
LATER = ("max_det", "workers", "dnn")  # not yet in release 6.0, whose task came at the place of max_det
SCRIPT_OPTIONS = (  # of a training script, beside those of the command line
    *("model", "dataloader", "save_dir", "plots", "callbacks", "compute_loss", "overlap", "mask_downsample_ratio"),
    *("criterion", "pbar", "wandb_logger"),
)


class ValCommand(Command[ValConfig]):
    """Validate a model on a data set."""

    run_defaults: ClassVar[Mapping[str, Any]] = {"half": True}

    def run(self, *args: Any, **options: Any) -> Results:
        """Validate with the options of the command line, as keyword arguments with underscores.

        On CUDA it uses FP16 unless `half=False`. Positional arguments are those of YOLOv5 v7.0 or v6.0.

        A training script gives its network and loader instead of weights: `run(data, model=..., dataloader=...,
        save_dir=..., plots=..., callbacks=..., compute_loss=...)`, described in `utils.evaluate.script_loader.Script`.

        Returns:
            (P, R, mAP50, mAP50-95, box, obj and cls loss); mAP50-95 of each class; milliseconds per image of
            (pre-process, inference, NMS). Instance segmentation: four metrics of boxes, four of masks and four losses
            (box, seg, obj, cls); the mean of box and mask mAP50-95 of each class.

        Raises:
            InputError: an option, file or value is invalid.
        """
        order = self.positionals
        position = order.index("max_det") if "max_det" in order else len(args)
        if len(args) > position and isinstance(args[position], str):
            order = tuple(name for name in order if name not in LATER)
        return self.validate(name_positionals(args, order, options))

    def test(self, *args: Any, **options: Any) -> Results:
        """As `run`, with the name and arguments of release 5.0."""
        named = name_positionals(args, TEST_ORDER.split(), options)
        named.pop("is_coco", None)
        if "half_precision" in named:
            named["half"] = named.pop("half_precision")
        return self.validate(named)

    def validate(self, options: dict[str, Any]) -> Results:
        """Validate weights, or the network of a script."""
        script = {name: options.pop(name) for name in SCRIPT_OPTIONS if name in options}
        if not script.get("plots", True):
            options["noplots"] = True
        if script.get("model") is not None:
            return self.validate_in_script(options, script)
        if unused := sorted(name for name in script if name != "plots" and script[name]):
            LOGGER.warning(f"WARNING {', '.join(unused)}: ignored without model")
        from utils.evaluate.run import evaluate  # after the flags are parsed, because torch is slow to import

        with as_file(options.pop("data", None)) as data:
            result = evaluate(self.build_config(data=data, **options))[-1]
        return _to_results(result)

    def validate_in_script(self, options: dict[str, Any], script: dict[str, Any]) -> Results:
        """Validate the network of a training script on its loader."""
        from utils.evaluate.script_loader import Script, evaluate_in_script

        data = options.pop("data", None)
        config = self.build_config(**options)
        if not isinstance(data, Mapping):
            from utils.datasets.index.data_yaml import load_spec

            spec = load_spec(data)
            val = [str(path) for path in spec.splits["val"].paths]
            data = {"path": spec.root, "names": spec.names, "val": val, "yaml_file": spec.path}
        inputs = Script(
            data=data,
            loader=script["dataloader"],
            save_dir=Path(script.get("save_dir") or ""),
            plots=bool(script.get("plots", True)),
            callbacks=script.get("callbacks"),
            compute_loss=script.get("compute_loss"),
            overlap=bool(script.get("overlap", False)),
        )
        return _to_results(evaluate_in_script(script["model"], config, inputs))

    def build_config(self, **options: Any) -> ValConfig:
        """The settings; FP16 unless `half` says otherwise."""
        config = self.kind.from_kwargs(**options)
        return config if "half" in config.explicit else replace(config, half=True)

    def main(self, opt: Namespace | Sequence[str] | None = None) -> None:
        """Run a command line or the result of `parse_opt`."""
        config = self.read_config(opt)
        from utils.evaluate.run import evaluate

        evaluate(config)


class ClassifyValCommand(ValCommand):
    """Validate a classifier on folders of images."""

    run_defaults: ClassVar[Mapping[str, Any]] = {"half": False}

    def run(self, *args: Any, **options: Any) -> Any:
        """Top-1 accuracy, top-5 accuracy and loss; options as keyword arguments with underscores.

        A training script gives `model`, `dataloader` of (normalized images, labels), and `criterion`.
        """
        named = {**self.run_defaults, **self.name_options(args, options)}
        if (model := named.get("model")) is not None:
            from utils.evaluate.script_loader import evaluate_classifier

            return evaluate_classifier(model, named["dataloader"], named.get("criterion"))
        top1, top5, loss = self.validate(named)[0]
        return top1, top5, loss


def _to_results(result: Any) -> Results:
    metrics = (*result.evaluation.metrics.values(), *result.losses.values())
    return metrics, result.evaluation.per_class, result.speed_ms


@contextmanager
def as_file(data: Any) -> Iterator[Any]:
    """The data YAML; that of a dict of `check_dataset` is written to a temporary folder."""
    if not isinstance(data, Mapping):
        yield data
        return
    content = {key: _to_plain(data[key]) for key in ("path", "train", "val", "test", "names", "nc") if data.get(key)}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / Path(str(data.get("yaml_file") or "data.yaml")).name
        file.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
        yield file


def _to_plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value

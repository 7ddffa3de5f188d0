"""PaddlePaddle models run by paddle.inference."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor

from utils.backends.base import ExportedBackend
from utils.backends.info import ModelInfo
from utils.backends.packages import existing_file, import_runtime
from utils.core.errors import InputError
from utils.core.logging import LOGGER

PROGRAMS = ("*.json", "*.pdmodel")  # of PaddlePaddle 3 and 2
WEIGHTS = ".pdiparams"
FAULTY_PASSES = (  # of PaddlePaddle 3.3 with oneDNN
    "inplace_pass",  # overwrites sizes of dynamic graphs that are still needed
    "conv_activation_onednn_fuse_pass",  # dies of a segmentation fault at a convolution with leaky ReLU
)
FIRST_MEMORY_MB = 512  # that a GPU run starts with; it takes more when it needs it


class PaddleBackend(ExportedBackend):
    """A predictor of paddle.inference; threads take turns.

    Args:
        opened: makes predictors. The fast kernels are tried first, the plain ones where those fail.
    """

    title = "PaddlePaddle"

    def __init__(
        self, file: str, opened: Predictors, info: ModelInfo, *, device: torch.device, names: Mapping[int, str] | None
    ) -> None:
        sources = opened.current.get_input_names()
        if len(sources) != 1:
            raise InputError(
                f"{file}: takes {', '.join(sources) or 'nothing'}, not one batch of images; export it again"
            )
        shape = opened.current.get_input_handle(sources[0]).shape()
        known = shape if len(shape) == 4 else (0, 0, 0, 0)  # [0] where an axis is free
        batch, channels, height, width = (side if side > 0 else None for side in known)
        super().__init__(
            file,
            replace(info, channels=channels or info.channels),
            device=device,
            names=names,
            fixed_hw=(height, width) if height and width else None,
            fixed_batch=batch,
        )
        self.opened, self.input_name, self._turn = opened, sources[0], threading.Lock()

    def run(self, images: Tensor) -> Sequence[Tensor]:
        """As `ExportedBackend.run`."""
        with self._turn:
            outputs = self.opened.tried(lambda predictor: _outputs(predictor, self.input_name, images.cpu().numpy()))
        return [torch.from_numpy(output).to(self.device) for output in outputs]


def _outputs(predictor: Any, input_name: str, images: np.ndarray) -> list[np.ndarray]:
    """One run of a predictor."""
    source = predictor.get_input_handle(input_name)
    source.reshape(list(images.shape))
    source.copy_from_cpu(images)
    predictor.run()
    return [predictor.get_output_handle(name).copy_to_cpu() for name in predictor.get_output_names()]


class Predictors:
    """The predictor of a file: with fast kernels, or, once these have failed, with plain ones.

    On a CPU the fast kernels are oneDNN's, twice as fast, but PaddlePaddle 3.3 cannot run every graph with them.

    Args:
        create: makes a predictor; called with True for one of fast kernels.
        describe: what an error says, for messages.

    Raises:
        InputError: with neither kind a predictor can be made.
    """

    def __init__(self, create: Callable[[bool], Any], describe: Callable[[Exception], str]) -> None:
        self._create, self._describe, self._fast = create, describe, True
        self.current: Any = None
        self.current = self.tried(lambda predictor: predictor)

    def tried(self, use: Callable[[Any], Any]) -> Any:
        """What `use` gives for the current predictor, or for a plain one where it raises; InputError if both do."""
        try:
            if self.current is None:
                self.current = self._create(self._fast)
            return use(self.current)
        except Exception as error:  # of C++, in classes that differ between releases
            if not self._fast:
                raise InputError(self._describe(error)) from error
            LOGGER.debug(f"PaddlePaddle goes on without oneDNN: {error}")
            self._fast, self.current = False, None
            return self.tried(use)


def load_paddle(
    files: Sequence[str], *, device: torch.device, fp16: bool = False, names: Mapping[int, str] | None = None
) -> PaddleBackend:
    """The folder in a predictor, on the GPU where the package is built for it, else on the CPU.

    Raises:
        MissingPackageError: PaddlePaddle is not installed.
        InputError: no such folder, or it holds no model that can be run.
    """
    folder = existing_file(files[0], "paddle", folder=True)
    inference = import_runtime("paddle.inference", needed_for="PaddlePaddle models", install="paddlepaddle")
    paddle = import_runtime("paddle", needed_for="PaddlePaddle models", install="paddlepaddle")
    program, weights = _parts(folder)
    info = _read_info(folder)
    if device.type != "cpu" and not (device.type == "cuda" and paddle.is_compiled_with_cuda()):
        LOGGER.warning(f"WARNING: this PaddlePaddle runs on the CPU; for {device.type}: pip install paddlepaddle-gpu")
        device = torch.device("cpu")
    if fp16:
        LOGGER.warning("WARNING: --half is ignored: PaddlePaddle models run in FP32 here")

    def create(fast: bool) -> Any:
        config = inference.Config(str(program), str(weights))
        config.disable_glog_info()
        for name in FAULTY_PASSES:
            config.delete_pass(name)
        if device.type == "cuda":
            config.enable_use_gpu(FIRST_MEMORY_MB, device.index or 0)
        else:
            config.set_cpu_math_library_num_threads(torch.get_num_threads())
        if not fast:
            config.disable_mkldnn()
        return inference.create_predictor(config)

    opened = Predictors(create, lambda error: f"{files[0]}: {_reason(error, paddle.__version__)}")
    return PaddleBackend(files[0], opened, info, device=device, names=names)


def _parts(folder: Path) -> tuple[Path, Path]:
    """Program and weights below a folder; InputError where one is missing."""
    programs = [path for pattern in PROGRAMS for path in sorted(folder.rglob(pattern))]
    for program in programs:
        weights = program.with_suffix(WEIGHTS)
        if weights.is_file() and weights.stat().st_size:
            return program, weights
    if not programs:
        raise InputError(f"{folder}: has no program ({' or '.join(PROGRAMS)}); copy or export it again")
    raise InputError(f"{programs[0].with_suffix(WEIGHTS)}: is missing or empty; copy or export the folder again")


def _read_info(folder: Path) -> ModelInfo:
    """The description beside the model, defaults where there is none."""
    for file in sorted(folder.glob("*.yaml")):
        try:
            values = yaml.safe_load(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            reason = " ".join(str(error).split())[:120]
            raise InputError(f"{file}: cannot be read ({reason}); export the model again") from error
        if isinstance(values, Mapping):
            return ModelInfo.from_values(values, place=str(file))
    return ModelInfo()


def _reason(error: Exception, version: str) -> str:
    """What PaddlePaddle says of a model, as the start of a line."""
    lines = [line.strip() for line in str(error).splitlines() if "Error" in line or "error" in line]
    text = (lines[-1] if lines else " ".join(str(error).split()))[:160]
    return f"PaddlePaddle {version} cannot run it ({text}); it may be damaged: export it again"

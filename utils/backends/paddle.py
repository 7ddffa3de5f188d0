"""PaddlePaddle models, run by paddle.inference."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from utils.backends.base import ExportedBackend
from utils.backends.info import ModelInfo
from utils.backends.operators import PADDLE_OPERATORS
from utils.backends.trust import UntrustedError
from utils.core.errors import InputError
from utils.core.files import read_file
from utils.core.logging import LOGGER
from utils.core.packages import find_exported_file, import_runtime
from utils.core.yaml_files import read_yaml

PROGRAMS = ("*.json", "*.pdmodel")  # of PaddlePaddle 3 and 2
WEIGHTS = ".pdiparams"
FAULTY_PASSES = (  # of PaddlePaddle 3.3 with oneDNN
    "inplace_pass",  # overwrites sizes of dynamic graphs that are still needed
    "conv_activation_onednn_fuse_pass",  # segmentation fault at a convolution with leaky ReLU
)
INITIAL_GPU_MEMORY_MB = 512  # grows as needed
KIND = "#"  # key of the kind of an operator, type or attribute in a program of PaddlePaddle 3; 1: its own operators
NO_OPERATOR = re.compile(r"p|0\.\w+|1\.[at]_\w+|(region|block)_\d+", re.ASCII)
MAX_PROGRAM_BYTES = 2**26


class PaddleBackend(ExportedBackend):
    """A predictor of paddle.inference; threads take turns."""

    title = "PaddlePaddle"

    def __init__(
        self,
        file: str,
        predictor: PredictorWithFallback,
        info: ModelInfo,
        *,
        device: torch.device,
        names: Mapping[int, str] | None,
    ) -> None:
        inputs = predictor.current.get_input_names()
        if len(inputs) != 1:
            found = ", ".join(inputs) or "none"
            raise InputError(f"{file}: expected a batch of images as the only input, found {found}; export it again")
        shape = predictor.current.get_input_handle(inputs[0]).shape()
        input_shape = shape if len(shape) == 4 else (None,) * 4  # [0] in dynamic graphs
        super().__init__(file, info, device=device, names=names, input_shape=input_shape)
        self.predictor, self.input_name, self._lock = predictor, inputs[0], threading.Lock()

    def run(self, images: Tensor) -> Sequence[Tensor]:
        """See `ExportedBackend.run`."""
        with self._lock:
            outputs = self.predictor.call(lambda predictor: _predict(predictor, self.input_name, images.cpu().numpy()))
        return [torch.from_numpy(output).to(self.device) for output in outputs]


def _predict(predictor: Any, input_name: str, images: np.ndarray) -> list[np.ndarray]:
    handle = predictor.get_input_handle(input_name)
    handle.reshape(list(images.shape))
    handle.copy_from_cpu(images)
    predictor.run()
    return [predictor.get_output_handle(name).copy_to_cpu() for name in predictor.get_output_names()]


class PredictorWithFallback:
    """A predictor with oneDNN kernels that is replaced by one without them at the first error.

    oneDNN is twice as fast on a CPU, but PaddlePaddle 3.3 cannot run every graph with it.

    Args:
        create: creates a predictor; the argument says whether to use oneDNN.
        describe: turns an exception into an error message.

    Raises:
        InputError: neither predictor can be created.
    """

    def __init__(self, create: Callable[[bool], Any], describe: Callable[[Exception], str]) -> None:
        self._create, self._describe, self._use_onednn = create, describe, True
        self.current: Any = None
        self.current = self.call(lambda predictor: predictor)

    def call(self, function: Callable[[Any], Any]) -> Any:
        """Call `function` with the current predictor, or with one without oneDNN if it raises."""
        try:
            if self.current is None:
                self.current = self._create(self._use_onednn)
            return function(self.current)
        except Exception as error:  # exceptions of C++, whose classes differ between releases
            if not self._use_onednn:
                raise InputError(self._describe(error)) from error
            LOGGER.debug(f"PaddlePaddle continues without oneDNN: {error}")
            self._use_onednn, self.current = False, None
            return self.call(function)


def load_paddle(
    files: Sequence[str],
    *,
    device: torch.device,
    fp16: bool = False,
    names: Mapping[int, str] | None = None,
    trust: bool = False,
) -> PaddleBackend:
    """Load the model of a folder, on the GPU if the installed package supports it.

    Args:
        trust: load it even if its program may do more than compute.

    Raises:
        MissingPackageError: PaddlePaddle is not installed.
        UntrustedError: its program may do more than compute.
        InputError: no such folder, or it has no model that can be run.
    """
    folder = find_exported_file(files[0], "paddle", folder=True)
    inference = import_runtime("paddle.inference", needed_for="PaddlePaddle models", install="paddlepaddle")
    paddle = import_runtime("paddle", needed_for="PaddlePaddle models", install="paddlepaddle")
    program, weights = _find_files(folder)
    if not trust:
        check_program(program)
    info = _read_info(folder)
    if device.type != "cpu" and not (device.type == "cuda" and paddle.is_compiled_with_cuda()):
        LOGGER.warning(f"WARNING: PaddlePaddle runs on the CPU; for {device.type}: pip install paddlepaddle-gpu")
        device = torch.device("cpu")
    if fp16:
        LOGGER.warning("WARNING: --half is ignored: PaddlePaddle models run in FP32")

    def create(use_onednn: bool) -> Any:
        config = inference.Config(str(program), str(weights))
        config.disable_glog_info()
        for name in FAULTY_PASSES:
            config.delete_pass(name)
        if device.type == "cuda":
            config.enable_use_gpu(INITIAL_GPU_MEMORY_MB, device.index or 0)
        else:
            config.set_cpu_math_library_num_threads(torch.get_num_threads())
        if not use_onednn:
            config.disable_mkldnn()
        return inference.create_predictor(config)

    predictor = PredictorWithFallback(create, lambda error: f"{files[0]}: {_explain_error(error, paddle.__version__)}")
    return PaddleBackend(files[0], predictor, info, device=device, names=names)


def _find_files(folder: Path) -> tuple[Path, Path]:
    """Program and weights in a folder; InputError if one is missing."""
    programs = [path for pattern in PROGRAMS for path in sorted(folder.rglob(pattern))]
    for program in programs:
        weights = program.with_suffix(WEIGHTS)
        if weights.is_file() and weights.stat().st_size:
            return program, weights
    if not programs:
        raise InputError(f"{folder}: no program ({' or '.join(PROGRAMS)}); copy or export it again")
    raise InputError(f"{programs[0].with_suffix(WEIGHTS)}: missing or empty; copy or export the folder again")


def check_program(program: Path) -> None:
    """Raise UntrustedError unless a program is JSON (PaddlePaddle 3) and has only operators that compute."""
    if program.suffix != ".json":
        raise UntrustedError(program, "programs of PaddlePaddle 2 are not checked and may do more than compute")
    content, kinds = read_file(program, max_bytes=MAX_PROGRAM_BYTES), set[str]()

    def collect(pairs: list[tuple[str, Any]]) -> None:
        kinds.update(str(value) for key, value in pairs if key == KIND)

    try:
        json.loads(content, object_pairs_hook=collect)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{program}: damaged or not a PaddlePaddle program; copy or export it again") from error
    for kind in sorted(kinds):
        operator = kind.removeprefix("1.")
        if not NO_OPERATOR.fullmatch(kind) and (operator == kind or operator not in PADDLE_OPERATORS):
            raise UntrustedError(program, f"operator {kind[:60]} may do more than compute, such as write files")


def _read_info(folder: Path) -> ModelInfo:
    """Read the metadata file beside the model; defaults if there is none."""
    for file in sorted(folder.glob("*.yaml")):
        values = read_yaml(file)
        if isinstance(values, Mapping):
            return ModelInfo.from_values(values, place=str(file))
    return ModelInfo()


def _explain_error(error: Exception, version: str) -> str:
    """Error message for a model that PaddlePaddle does not run."""
    lines = [line.strip() for line in str(error).splitlines() if "Error" in line or "error" in line]
    text = (lines[-1] if lines else " ".join(str(error).split()))[:160]
    return f"PaddlePaddle {version} cannot run it ({text}); copy or export it again"

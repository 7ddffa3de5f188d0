"""TorchScript files, run by PyTorch."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torchvision  # noqa: F401 (registers the NMS operator)
from torch import Tensor

from utils.backends.base import ExportedBackend
from utils.backends.info import ModelInfo
from utils.backends.outputs import flatten_outputs
from utils.backends.script_archive import DAMAGED, read_script
from utils.backends.threads import ThreadTuner, running
from utils.core.errors import InputError
from utils.core.logging import LOGGER
from utils.core.packages import find_exported_file

CONFIG_FILE = "config.txt"


class TorchScriptBackend(ExportedBackend):
    """A traced network, frozen: parameters are constants, and constant expressions are folded.

    Attributes:
        threads: chooses the number of CPU threads; None for that of torch.
    """

    title = "TorchScript"
    has_thread_pool = False
    threads: ThreadTuner | None = None

    def __init__(
        self,
        file: str,
        module: Any,
        info: ModelInfo,
        *,
        device: torch.device,
        fp16: bool = False,
        names: Mapping[int, str] | None = None,
    ) -> None:
        dtype = next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)
        if dtype == torch.float16 and device.type == "cpu":  # which computes FP32 about 30 times as fast
            module, dtype = module.float(), torch.float32
        elif fp16 and dtype != torch.float16 and device.type == "cuda":
            module, dtype = module.half(), torch.float16
        elif fp16 and dtype != torch.float16:
            LOGGER.warning(f"WARNING: --half is ignored: {file} was exported in FP32; export it with --half")
        height, width = (None, None) if info.dynamic or not info.imgsz else info.imgsz
        input_shape = (None, None, height, width)
        super().__init__(file, info, device=device, names=names, dtype=dtype, input_shape=input_shape)
        self.module = module

    def run(self, images: Tensor) -> Sequence[Tensor]:
        """See `ExportedBackend.run`."""
        with torch.inference_mode(), running(self.threads, images.shape):
            return flatten_outputs(self.module(images))


def load_torchscript(
    files: Sequence[str],
    *,
    device: torch.device,
    fp16: bool = False,
    names: Mapping[int, str] | None = None,
    trust: bool = False,
) -> TorchScriptBackend:
    """Load a file on the device, in evaluation mode and frozen.

    Args:
        trust: load it even if its program can do more than compute.

    Raises:
        UntrustedError: its program can do more than compute.
        InputError: no such file, or not a TorchScript file.
    """
    path = find_exported_file(files[0], "torchscript")
    extra = {CONFIG_FILE: ""}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecation warnings of TorchScript
        source = str(path) if trust else read_script(path, files[0])
        with _reraise_errors(files[0]):
            module = torch.jit.load(source, map_location=device, _extra_files=extra).eval()
        info = read_info(extra[CONFIG_FILE], files[0])
        with _reraise_errors(files[0]):
            backend = TorchScriptBackend(files[0], module, info, device=device, fp16=fp16, names=names)
            if list(module.parameters()):  # none if it was frozen before the export
                backend.module = torch.jit.freeze(backend.module)
    return backend


@contextmanager
def _reraise_errors(file: str) -> Iterator[None]:
    """Raise errors of torch as InputError."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # any, if classes or attributes have unusual names
        raise InputError(f"{file}: {_explain_error(error)}") from error


def read_info(text: str | bytes, file: str) -> ModelInfo:
    """Parse the metadata in `config.txt`; defaults if it is empty.

    Raises:
        InputError: not a JSON mapping.
    """
    text = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    if not text:
        return ModelInfo()
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        shown = " ".join(text.split())[:60]
        raise InputError(
            f"{file}: {CONFIG_FILE}: {shown!r} is not JSON (it is not evaluated); export it again"
        ) from error
    if not isinstance(values, dict):
        raise InputError(f"{file}: {CONFIG_FILE}: expected a mapping, found {type(values).__name__}; export it again")
    shape = values.get("shape")
    if "imgsz" not in values and isinstance(shape, list) and len(shape) == 4:  # metadata of YOLOv5 exports
        values |= {"channels": shape[1], "imgsz": shape[2:]}
    return ModelInfo.from_values(values, place=file)


def _explain_error(error: Exception) -> str:
    """Error message for a file that torch does not load."""
    text = " ".join(str(error).split())
    if "PytorchStreamReader" in text or "constants.pkl" in text or "archive" in text:
        return DAMAGED
    return f"torch {torch.__version__} cannot run it ({text[:160]}); copy or export it again"

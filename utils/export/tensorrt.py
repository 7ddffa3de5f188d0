"""Export to TensorRT engines, built from ONNX on the GPU that will run them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from utils.backends.tensorrt import get_metadata_path
from utils.core.errors import InputError
from utils.core.files import atomic_write
from utils.core.logging import LOGGER
from utils.core.packages import import_runtime
from utils.export.base import ExportJob
from utils.export.onnx import build_onnx

SUFFIX = ".engine"
INSTALL = "tensorrt"
GIB = 2**30
MIN_CELLS = 2  # height and width of the coarsest feature map for the smallest image of a dynamic engine


def export_tensorrt(job: ExportJob) -> Path:
    """Write `<stem>.engine`, which TensorRT's tools can read, and its metadata in `<stem>.engine.json`.

    Types are those of the ONNX graph: FP32; FP16 with `half`, boxes decoded in FP32; Q/DQ convolutions with `int8`.
    With `dynamic`, batches have 1 to `batch` images of up to `imgsz` plus one stride, which `val.py` adds to
    rectangular batches; the engine is optimized for half a batch of `imgsz`.

    Raises:
        InputError: the device is not a GPU, a package is missing, or TensorRT cannot build the engine.
    """
    options = job.options
    if options.device.type != "cuda":
        raise InputError("--include engine: TensorRT builds engines on the GPU that will run them; add --device 0")
    trt = import_runtime("tensorrt", needed_for="TensorRT exports", install=INSTALL)
    graph = build_onnx(job)
    if options.int8:
        from utils.export.onnx_int8 import quantize  # needs onnxruntime

        graph = quantize(job, graph, for_tensorrt=True)
    LOGGER.info(f"TensorRT {trt.__version__}: building the engine, which takes minutes")
    engine = build_engine(trt, graph.SerializeToString(), job)
    target = job.get_path(SUFFIX)
    with atomic_write(target) as temporary:
        temporary.write_bytes(engine)
    with atomic_write(get_metadata_path(target)) as temporary:
        text = json.dumps(job.info.to_values(), ensure_ascii=False, indent=1)
        temporary.write_text(text + "\n", encoding="utf-8")
    return target


def build_engine(trt: Any, graph: bytes, job: ExportJob) -> bytes:
    """Build and serialize the engine of an ONNX file.

    Args:
        trt: the tensorrt package, 8.5 or later.

    Raises:
        InputError: TensorRT cannot parse the graph or build the engine.
    """
    options = job.options
    logger = trt.Logger(trt.Logger.VERBOSE if options.verbose else trt.Logger.WARNING)
    builder = trt.Builder(logger)
    network = builder.create_network(_network_flags(trt))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(graph):
        reasons = "; ".join(" ".join(parser.get_error(i).desc().split()) for i in range(parser.num_errors))
        raise InputError(f"{job.weights}: TensorRT {trt.__version__} cannot parse its ONNX graph ({reasons[:300]})")
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, int(options.workspace * GIB))
    _set_precision(trt, config, job)
    if options.dynamic:
        _add_profile(builder, config, network.get_input(0).name, job)
    cache = _read_cache(config, options.cache)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        reason = f"{job.weights}: TensorRT {trt.__version__} cannot build the engine, see its log above"
        raise InputError(f"{reason}; try a larger --workspace than {options.workspace:g} GiB, or --verbose")
    if cache is not None:
        with atomic_write(options.cache) as temporary:
            temporary.write_bytes(bytes(config.get_timing_cache().serialize()))
    return bytes(engine)


def _network_flags(trt: Any) -> int:
    """Explicit batch for release 8, strong types for 10; both are defaults of 11."""
    flags = trt.NetworkDefinitionCreationFlag
    names = [name for name in ("EXPLICIT_BATCH", "STRONGLY_TYPED") if hasattr(flags, name)]
    return sum(1 << int(getattr(flags, name)) for name in names)


def _set_precision(trt: Any, config: Any, job: ExportJob) -> None:
    """Enable the precision of the graph in releases without strongly typed networks (8)."""
    if hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED"):
        return
    if job.options.half:
        config.set_flag(trt.BuilderFlag.FP16)
    if job.options.int8:
        config.set_flag(trt.BuilderFlag.INT8)


def _add_profile(builder: Any, config: Any, name: str, job: ExportJob) -> None:
    """Add the smallest, optimal and largest input shapes of a dynamic engine."""
    options, channels, stride = job.options, job.info.channels, job.info.stride
    height, width = options.imgsz
    largest = max(options.imgsz) + stride
    profile = builder.create_optimization_profile()
    profile.set_shape(
        name,
        (1, channels, MIN_CELLS * stride, MIN_CELLS * stride),
        (max(options.batch // 2, 1), channels, height, width),
        (options.batch, channels, largest, largest),
    )
    config.add_optimization_profile(profile)


def _read_cache(config: Any, file: str) -> Any:
    """Set the timing cache of the builder from a file; None without one."""
    if not file:
        return None
    path = Path(file)
    cache = config.create_timing_cache(path.read_bytes() if path.is_file() else b"")
    if not config.set_timing_cache(cache, ignore_mismatch=False):
        LOGGER.warning(f"WARNING: --cache {file}: from another TensorRT version or GPU, overwritten")
    return cache

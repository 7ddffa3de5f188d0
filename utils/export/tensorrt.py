"""TensorRT engines, built from ONNX on the GPU that is to run them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from utils.backends.packages import import_runtime
from utils.backends.tensorrt import description_file
from utils.core.errors import InputError
from utils.core.files import atomic_write
from utils.core.logging import LOGGER
from utils.export.base import ExportJob
from utils.export.onnx import build_onnx

ENDING = ".engine"
INSTALL = "tensorrt"
GIB = 2**30
LEAST_STRIDES = 2  # cells of the coarsest map along a side of the smallest image of a dynamic engine


def export_tensorrt(job: ExportJob) -> Path:
    """Write `<stem>.engine` as TensorRT's own tools read it, and its description to `<stem>.engine.json`.

    The types are those of the ONNX graph: FP32, FP16 with `half` (boxes are decoded in FP32), eight-bit convolutions
    between Q and DQ nodes with `int8`. With `dynamic` an engine takes 1 to `batch` images with sides up to those of
    `imgsz` and one stride more, which `val.py` adds to rectangular batches; it is fastest for half a batch of `imgsz`.

    Raises:
        InputError: no GPU is named, a package is missing, or TensorRT cannot build the graph.
    """
    options = job.options
    if options.device.type != "cuda":
        raise InputError("--include engine: TensorRT builds an engine on the GPU that will run it; add --device 0")
    trt = import_runtime("tensorrt", needed_for="TensorRT exports", install=INSTALL)
    graph = build_onnx(job)
    if options.int8:
        from utils.export.onnx_int8 import quantize  # needs onnxruntime, which other exports do not

        graph = quantize(job, graph, for_tensorrt=True)
    LOGGER.info(f"TensorRT {trt.__version__}: building the engine takes minutes")
    engine = build_engine(trt, graph.SerializeToString(), job)
    target = job.target(ENDING)
    with atomic_write(target) as temporary:
        temporary.write_bytes(engine)
    with atomic_write(description_file(target)) as temporary:
        text = json.dumps(job.info.to_values(), ensure_ascii=False, indent=1)
        temporary.write_text(text + "\n", encoding="utf-8")
    return target


def build_engine(trt: Any, graph: bytes, job: ExportJob) -> bytes:
    """The serialized engine of an ONNX file.

    Args:
        trt: the package, release 8.5 or later.

    Raises:
        InputError: it cannot parse or build the graph.
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
    _allow_types(trt, config, job)
    if options.dynamic:
        _add_profile(builder, config, network.get_input(0).name, job)
    cache = _read_cache(config, options.cache)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        reason = f"{job.weights}: TensorRT {trt.__version__} could not build the engine, its log above says why"
        raise InputError(f"{reason}; more memory (--workspace {options.workspace:g} GiB now) or --verbose may help")
    if cache is not None:
        with atomic_write(options.cache) as temporary:
            temporary.write_bytes(bytes(config.get_timing_cache().serialize()))
    return bytes(engine)


def _network_flags(trt: Any) -> int:
    """What the releases want: 8 an explicit batch, 10 that types are the graph's; 11 has it so by itself."""
    known = trt.NetworkDefinitionCreationFlag
    names = [name for name in ("EXPLICIT_BATCH", "STRONGLY_TYPED") if hasattr(known, name)]
    return sum(1 << int(getattr(known, name)) for name in names)


def _allow_types(trt: Any, config: Any, job: ExportJob) -> None:
    """Let releases without typed networks (8) choose the types that the graph has."""
    if hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED"):
        return
    if job.options.half:
        config.set_flag(trt.BuilderFlag.FP16)
    if job.options.int8:
        config.set_flag(trt.BuilderFlag.INT8)


def _add_profile(builder: Any, config: Any, name: str, job: ExportJob) -> None:
    """State which sizes a dynamic engine takes, and for which it is to be fast."""
    options, channels, stride = job.options, job.info.channels, job.info.stride
    height, width = options.imgsz
    largest = max(options.imgsz) + stride
    profile = builder.create_optimization_profile()
    profile.set_shape(
        name,
        (1, channels, LEAST_STRIDES * stride, LEAST_STRIDES * stride),
        (max(options.batch // 2, 1), channels, height, width),
        (options.batch, channels, largest, largest),
    )
    config.add_optimization_profile(profile)


def _read_cache(config: Any, file: str) -> Any:
    """Give the builder the timings of earlier builds, if a file for them is named; None otherwise."""
    if not file:
        return None
    path = Path(file)
    cache = config.create_timing_cache(path.read_bytes() if path.is_file() else b"")
    if not config.set_timing_cache(cache, ignore_mismatch=False):
        LOGGER.warning(f"WARNING: --cache {file}: is of another TensorRT or GPU; it is written anew")
    return cache

"""Cost of the semantic heads over the detector: parameters, GFLOPs, inference time and peak memory.

    python tests/bench/bench_semantic.py [--cfg yolov5s-v5] [--imgsz 512 1024] [--device cpu] [--half] [--repeats 20]

`--cfg` is a prefix of model YAMLs: yolov5n for yolov5n-psp.yaml and so on. Each network runs in a separate process, so
that memory peaks are independent. Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from models.graph import load_model_yaml
from models.semantic_heads import SEMANTIC_HEADS
from utils.core.device import select_device
from utils.tasks.networks import build_model

HEADS = ("base", "bise", "lab", "psp")
CLASSES = {"nc": 10, "n_segcls": 19}  # as the published counts


def build_network(cfg: str, head: str) -> nn.Module:
    """Build the joint network with a head, or the detector alone."""
    graph = {**load_model_yaml(f"{cfg}-{head or HEADS[-1]}.yaml"), **CLASSES}
    if not head:
        graph = remove_semantic_head(graph)
    return build_model(graph).eval().requires_grad_(False)


def remove_semantic_head(graph: dict[str, Any]) -> dict[str, Any]:
    """Remove the row of the semantic head, which no other row refers to."""
    rows = [row for row in graph["head"] if row[2] not in SEMANTIC_HEADS]
    return {key: value for key, value in graph.items() if key != "n_segcls"} | {"head": rows}


def count_conv_gflops(model: nn.Module, images: torch.Tensor) -> float:
    """Count two operations per multiplication of the convolutions, in billions."""
    total = 0

    def count(layer: Any, _: Any, output: torch.Tensor) -> None:
        nonlocal total
        total += 2 * output[0].numel() * layer.weight[0].numel()

    hooks = [m.register_forward_hook(count) for m in model.modules() if isinstance(m, nn.Conv2d)]
    model(images)
    for hook in hooks:
        hook.remove()
    return total / 1e9


def get_peak_bytes(device: torch.device) -> int:
    """Peak memory: allocated on the GPU, or of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@torch.inference_mode()
def measure(
    cfg: str, head: str, size_hw: tuple[int, int], device: torch.device, *, half: bool, repeats: int
) -> dict[str, float]:
    """Measure one network; memory is that of the process on a CPU, of all tensors on a GPU."""
    model = build_network(cfg, head)
    parameters = sum(p.numel() for p in model.parameters())
    gflops = count_conv_gflops(model, torch.zeros(1, 3, *size_hw))
    dtype = torch.float16 if half else torch.float32
    model = model.fuse().to(device=device, dtype=dtype, memory_format=torch.channels_last)  # type: ignore[operator]
    images = torch.rand(1, 3, *size_hw, device=device).to(dtype).contiguous(memory_format=torch.channels_last)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    times = []
    for _ in range(repeats + 3):
        start = perf_counter()
        model(images)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(1000 * (perf_counter() - start))
    megabytes = get_peak_bytes(device) / 2**20
    return {"parameters": parameters, "gflops": gflops, "ms": median(times[3:]), "megabytes": megabytes}


def main() -> None:
    """Print a line for the detector and each head."""
    parser = argparse.ArgumentParser(description="cost of the semantic heads")
    parser.add_argument("--cfg", default="yolov5s-v5", help="prefix of the model YAMLs")
    parser.add_argument("--imgsz", type=int, nargs=2, default=[512, 1024], help="height and width")
    parser.add_argument("--device", default="", help="cpu or a CUDA index")
    parser.add_argument("--half", action="store_true", help="FP16, on CUDA")
    parser.add_argument("--threads", type=int, default=2, help="torch threads")
    parser.add_argument("--repeats", type=int, default=20, help="measured runs")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one is not None:
        torch.set_num_threads(args.threads)
        head = args.one.removeprefix("none")
        device = select_device(args.device)
        results = measure(args.cfg, head, tuple(args.imgsz), device, half=args.half, repeats=args.repeats)
        print(json.dumps(results))
        return
    height, width = args.imgsz
    print(f"{args.cfg} at {height}x{width}, {CLASSES}, {args.threads} threads; in parentheses: the head alone")
    base: dict[str, float] = {}
    for head in ("none", *HEADS):
        command = [sys.executable, __file__, *sys.argv[1:], "--one", head]
        process = subprocess.run(command, capture_output=True, text=True, check=True)
        results = json.loads(process.stdout.splitlines()[-1])
        base = base or results
        cells = [f"{results[key]:12,.1f} ({results[key] - base[key]:+10,.1f})" for key in ("gflops", "ms", "megabytes")]
        head_parameters = results["parameters"] - base["parameters"]
        print(
            f"{head:5} parameters {results['parameters']:12,} ({head_parameters:+10,})  GFLOPs, ms, MB:{''.join(cells)}"
        )


if __name__ == "__main__":
    main()

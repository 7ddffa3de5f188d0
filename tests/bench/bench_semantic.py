"""Cost of the semantic heads: parameters, GFLOPs, time and peak memory of an image, against the detector alone.

    python tests/bench/bench_semantic.py [--cfg yolov5s-v5] [--imgsz 512 1024] [--device cpu] [--half] [--repeats 20]

`--cfg` is the start of the graphs' names: yolov5n stands for yolov5n-psp.yaml and so on. Each network is measured in a
process of its own, so that peaks do not hide one another. Nothing else may run beside it.
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


def build(cfg: str, head: str) -> nn.Module:
    """The joint network of a head, or without one the detector that it is built upon."""
    graph = {**load_model_yaml(f"{cfg}-{head or HEADS[-1]}.yaml"), **CLASSES}
    if not head:
        graph = without_semantic_head(graph)
    return build_model(graph).eval().requires_grad_(False)


def without_semantic_head(graph: dict[str, Any]) -> dict[str, Any]:
    """The graph without that row; it stands behind all rows that others take, Detect apart, which takes none of it."""
    rows = [row for row in graph["head"] if row[2] not in SEMANTIC_HEADS]
    return {key: value for key, value in graph.items() if key != "n_segcls"} | {"head": rows}


def conv_gflops(model: nn.Module, images: torch.Tensor) -> float:
    """Two operations per multiplication of the convolutions, in thousand millions."""
    total = 0

    def count(layer: Any, _: Any, output: torch.Tensor) -> None:
        nonlocal total
        total += 2 * output[0].numel() * layer.weight[0].numel()

    hooks = [m.register_forward_hook(count) for m in model.modules() if isinstance(m, nn.Conv2d)]
    model(images)
    for hook in hooks:
        hook.remove()
    return total / 1e9


def peak_bytes(device: torch.device) -> int:
    """Most memory so far: of the GPU's allocator, else of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@torch.inference_mode()
def measure(
    cfg: str, head: str, size_hw: tuple[int, int], device: torch.device, *, half: bool, repeats: int
) -> dict[str, float]:
    """Numbers of one network; its memory is that of the whole process on a processor, of all tensors on a GPU."""
    model = build(cfg, head)
    parameters = sum(p.numel() for p in model.parameters())
    gflops = conv_gflops(model, torch.zeros(1, 3, *size_hw))
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
    megabytes = peak_bytes(device) / 2**20
    return {"parameters": parameters, "gflops": gflops, "ms": median(times[3:]), "megabytes": megabytes}


def main() -> None:
    """Print a line for the detector and each head."""
    parser = argparse.ArgumentParser(description="cost of the semantic heads")
    parser.add_argument("--cfg", default="yolov5s-v5", help="start of the graphs' names")
    parser.add_argument("--imgsz", type=int, nargs=2, default=[512, 1024], help="height and width")
    parser.add_argument("--device", default="", help="cpu or a CUDA index")
    parser.add_argument("--half", action="store_true", help="FP16, on CUDA")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch")
    parser.add_argument("--repeats", type=int, default=20, help="measured passes")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one is not None:
        torch.set_num_threads(args.threads)
        head = args.one.removeprefix("none")
        device = select_device(args.device)
        found = measure(args.cfg, head, tuple(args.imgsz), device, half=args.half, repeats=args.repeats)
        print(json.dumps(found))
        return
    height, width = args.imgsz
    print(f"{args.cfg} at {height}x{width}, {CLASSES}, {args.threads} threads; in brackets: the head's part")
    base: dict[str, float] = {}
    for head in ("none", *HEADS):
        command = [sys.executable, __file__, *sys.argv[1:], "--one", head]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
        base = base or found
        cells = [f"{found[key]:12,.1f} ({found[key] - base[key]:+10,.1f})" for key in ("gflops", "ms", "megabytes")]
        own = found["parameters"] - base["parameters"]
        print(f"{head:5} parameters {found['parameters']:12,} ({own:+10,})  GFLOPs, ms, MB:{''.join(cells)}")


if __name__ == "__main__":
    main()

"""Prune a checkpoint and measure it: `python -m utils.prune --weights best.pt --amount 0.3 --data my.yaml`."""

from __future__ import annotations

import argparse
import gzip
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from utils.core.errors import InputError
from utils.core.script import run_script


def build_parser() -> argparse.ArgumentParser:
    """The argparse parser of the command."""
    parser = argparse.ArgumentParser(
        prog="python -m utils.prune",
        description="Set the smallest weights of a checkpoint to zero and measure size and accuracy.",
    )
    parser.add_argument("--weights", required=True, help="checkpoint")
    parser.add_argument(
        "--amount", type=float, default=0.3, help="fraction of the weights of each convolution (default: %(default)s)"
    )
    parser.add_argument("--data", default="", help="data set YAML to validate on, before and after")
    parser.add_argument("--output", default="", help="output file (default: NAME-pruned.pt beside the checkpoint)")
    parser.add_argument(
        "--imgsz", "--img", "--img-size", type=int, default=640, help="image size in pixels (default: %(default)s)"
    )
    parser.add_argument("--batch-size", type=int, default=32, help="images per step (default: %(default)s)")
    parser.add_argument("--device", default="", help="cpu, mps or a CUDA index; empty: CUDA if available")
    parser.add_argument(
        "--workers", type=int, default=8, help="maximum number of loader processes (default: %(default)s)"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Write the pruned checkpoint and print size, sparsity and metrics before and after."""
    args = build_parser().parse_args(argv)
    if not 0 <= args.amount < 1:
        raise InputError(f"--amount {args.amount:g}: must be at least 0 and below 1")
    from utils.tasks.networks import find_weights  # after the flags are parsed, because torch is slow to import

    source = find_weights(args.weights)
    target = Path(args.output) if args.output else source.with_name(f"{source.stem}-pruned.pt")
    if target.resolve() == source.resolve():
        raise InputError(f"--output {target}: is the checkpoint itself; give another file")
    metrics = (
        [evaluate_checkpoint(source, args)] if args.data else []
    )  # first, so that unusable data leaves no file behind
    sparsities = write_pruned(source, target, args.amount)
    metrics += [evaluate_checkpoint(target, args)] if args.data else [{}, {}]
    columns = [
        {**compute_file_stats(file, sparsity), **file_metrics}
        for file, sparsity, file_metrics in zip((source, target), sparsities, metrics, strict=True)
    ]
    print(format_table(*columns))
    print(f"written: {target}")


def write_pruned(source: Path, target: Path, amount: float) -> tuple[float, float]:
    """Write a stripped, pruned checkpoint; return the fraction of zero weights before and after."""
    from models.checkpoint import save_checkpoint, strip_checkpoint
    from models.pruning import compute_sparsity, prune_convolutions
    from utils.tasks.networks import load_checkpoint

    checkpoint = load_checkpoint(source)
    if not checkpoint.yaml:
        raise InputError(f"{source}: its architecture is not in the file, so it cannot be saved again")
    before = compute_sparsity(checkpoint.model)
    prune_convolutions(checkpoint.model, amount)
    after = compute_sparsity(checkpoint.model)
    content: dict[str, Any] = {
        "task": checkpoint.task,
        "yaml": checkpoint.yaml,
        "names": checkpoint.names,
        "model": checkpoint.state_dict,
        "hyp": checkpoint.hyp,
        "pruned": amount,
    }
    save_checkpoint(target, content)
    strip_checkpoint(target)
    return before, after


def compute_file_stats(file: Path, sparsity: float) -> dict[str, float]:
    """Zero weights in percent, and the size of the file, plain and gzipped, in MB."""
    content = file.read_bytes()
    return {"zeros, %": 100 * sparsity, "file, MB": len(content) / 1e6, "gzip, MB": len(gzip.compress(content)) / 1e6}


def evaluate_checkpoint(file: Path, args: argparse.Namespace) -> dict[str, float]:
    """Metrics on the validation split, by their names in results.csv without `metrics/`."""
    from utils.config.val import ValConfig
    from utils.evaluate.run import evaluate

    settings = {"imgsz": args.imgsz, "batch_size": args.batch_size, "device": args.device, "workers": args.workers}
    config = ValConfig.from_kwargs(weights=[str(file)], data=args.data, noplots=True, **settings)
    metrics = evaluate(config)[-1].evaluation.metrics
    return {name.removeprefix("metrics/"): value for name, value in metrics.items()}


def format_table(before: Mapping[str, float], after: Mapping[str, float]) -> str:
    """A table of all values before and after."""
    lines = [f"{'':<16}{'before':>10}{'after':>10}"]
    lines += [f"{name:<16}{value:>10.4g}{after[name]:>10.4g}" for name, value in before.items()]
    return "\n".join(lines)


if __name__ == "__main__":
    run_script(main)

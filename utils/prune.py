"""Prune a checkpoint and say what it costs: `python -m utils.prune --weights best.pt --amount 0.3 --data my.yaml`."""

from __future__ import annotations

import argparse
import gzip
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from utils.core.errors import InputError
from utils.core.script import run_script


def build_parser() -> argparse.ArgumentParser:
    """Flags of the command."""
    parser = argparse.ArgumentParser(
        prog="python -m utils.prune", description="Set the smallest weights of a checkpoint to zero and measure it."
    )
    parser.add_argument("--weights", required=True, help="checkpoint")
    parser.add_argument(
        "--amount", type=float, default=0.3, help="share of the weights of each convolution (%(default)s)"
    )
    parser.add_argument("--data", default="", help="data set to measure on before and after; none: sizes only")
    parser.add_argument("--output", default="", help="file to write (default: NAME-pruned.pt beside the checkpoint)")
    parser.add_argument(
        "--imgsz", "--img", "--img-size", type=int, default=640, help="network input, pixels (%(default)s)"
    )
    parser.add_argument("--batch-size", type=int, default=32, help="images per step (%(default)s)")
    parser.add_argument("--device", default="", help="cpu, mps or a CUDA index; empty takes the best there is")
    parser.add_argument("--workers", type=int, default=8, help="loader processes, at most (%(default)s)")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Write the pruned checkpoint and print what it has before and after."""
    args = build_parser().parse_args(argv)
    if not 0 <= args.amount < 1:
        raise InputError(f"--amount {args.amount:g}: must be at least 0 and below 1")
    from models.checkpoint import find_weights  # torch takes seconds to import: only once the flags are right

    source = find_weights(args.weights)
    target = Path(args.output) if args.output else source.with_name(f"{source.stem}-pruned.pt")
    if target.resolve() == source.resolve():
        raise InputError(f"--output {target}: is the checkpoint itself; name another file")
    metrics = [measured(source, args)] if args.data else []  # first: data that cannot be used leave no file behind
    zeros = write_pruned(source, target, args.amount)
    metrics += [measured(target, args)] if args.data else [{}, {}]
    columns = [
        {**file_numbers(file, share), **numbers}
        for file, share, numbers in zip((source, target), zeros, metrics, strict=True)
    ]
    print(report(*columns))
    print(f"written: {target}")


def write_pruned(source: Path, target: Path, amount: float) -> tuple[float, float]:
    """Write a small checkpoint of the network with its smallest weights at zero; share of zeros before and after."""
    from models.checkpoint import load_checkpoint, save_checkpoint, strip_checkpoint
    from models.pruning import prune_convolutions, sparsity

    checkpoint = load_checkpoint(source)
    if not checkpoint.yaml:
        raise InputError(f"{source}: its layers cannot be told from the file, so it cannot be written anew")
    before = sparsity(checkpoint.model)
    prune_convolutions(checkpoint.model, amount)
    after = sparsity(checkpoint.model)
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


def file_numbers(file: Path, zeros: float) -> dict[str, float]:
    """Zeros in percent, size of the file and of a gzip of it, in MB."""
    content = file.read_bytes()
    return {"zeros, %": 100 * zeros, "file, MB": len(content) / 1e6, "gzip, MB": len(gzip.compress(content)) / 1e6}


def measured(file: Path, args: argparse.Namespace) -> dict[str, float]:
    """Metrics on the validation split, by their names in results.csv without the folder."""
    from utils.config.base import ValConfig
    from utils.evaluate.run import evaluate

    settings = {"imgsz": args.imgsz, "batch_size": args.batch_size, "device": args.device, "workers": args.workers}
    config = ValConfig.from_kwargs(weights=[str(file)], data=args.data, noplots=True, **settings)
    metrics = evaluate(config)[-1].evaluation.metrics
    return {name.removeprefix("metrics/"): value for name, value in metrics.items()}


def report(before: Mapping[str, float], after: Mapping[str, float]) -> str:
    """A line for each number, before and after."""
    lines = [f"{'':<16}{'before':>10}{'after':>10}"]
    lines += [f"{name:<16}{value:>10.4g}{after[name]:>10.4g}" for name, value in before.items()]
    return "\n".join(lines)


if __name__ == "__main__":
    run_script(main)

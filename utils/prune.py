"""Prune a checkpoint and measure it: `python -m utils.prune --weights best.pt --amount 0.3 --data my.yaml`."""

from __future__ import annotations

import gzip
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.config.base import IMG_FLAGS, BaseConfig, option
from utils.config.flag_types import not_negative_int, positive_int
from utils.core.errors import InputError
from utils.core.script import run_script


@dataclass(frozen=True)
class PruneConfig(BaseConfig):
    """Set the smallest weights of a checkpoint to zero and measure size and accuracy."""

    weights: str = option("", "--weights", required=True, help="checkpoint")
    amount: float = option(0.3, "--amount", type=float, help="fraction of the weights of each convolution")
    data: str = option("", "--data", help="data set YAML to validate on, before and after")
    output: str = option("", "--output", help="output file (default: NAME-pruned.pt beside the checkpoint)")
    imgsz: int = option(640, *IMG_FLAGS, type=positive_int, help="image size in pixels")
    batch_size: int = option(32, "--batch-size", type=positive_int, help="images per step")
    device: str = option("", "--device", help="cpu, mps or a CUDA index; empty: CUDA if available")
    workers: int = option(8, "--workers", type=not_negative_int, help="maximum number of loader processes")


def main(argv: Sequence[str] | None = None) -> None:
    """Write the pruned checkpoint and print size, sparsity and metrics before and after."""
    config = PruneConfig.from_args(argv)
    if not 0 <= config.amount < 1:
        raise InputError(f"--amount {config.amount:g}: must be at least 0 and below 1")
    from utils.tasks.networks import find_weights  # after the flags are parsed, because torch is slow to import

    source = find_weights(config.weights)
    target = Path(config.output) if config.output else source.with_name(f"{source.stem}-pruned.pt")
    if target.resolve() == source.resolve():
        raise InputError(f"--output {target}: is the checkpoint itself; give another file")
    before = evaluate_checkpoint(source, config)  # first, so that unusable data leaves no file behind
    sparsity, pruned_sparsity = write_pruned(source, target, config.amount)
    before = compute_file_stats(source, sparsity) | before
    after = compute_file_stats(target, pruned_sparsity) | evaluate_checkpoint(target, config)
    print(format_table(before, after))
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


def evaluate_checkpoint(file: Path, config: PruneConfig) -> dict[str, float]:
    """Metrics on the validation split, if any, by their names in results.csv without `metrics/`."""
    if not config.data:
        return {}
    from utils.config.val import ValConfig
    from utils.evaluate.run import evaluate

    settings = {name: getattr(config, name) for name in ("data", "imgsz", "batch_size", "device", "workers")}
    val_config = ValConfig.from_kwargs(weights=[str(file)], noplots=True, **settings)
    metrics = evaluate(val_config)[-1].evaluation.metrics
    return {name.removeprefix("metrics/"): value for name, value in metrics.items()}


def format_table(before: Mapping[str, float], after: Mapping[str, float]) -> str:
    """A table of all values before and after."""
    lines = [f"{'':<16}{'before':>10}{'after':>10}"]
    lines += [f"{name:<16}{value:>10.4g}{after[name]:>10.4g}" for name, value in before.items()]
    return "\n".join(lines)


if __name__ == "__main__":
    run_script(main)

"""Hyperparameter evolution (`--evolve`): a genetic search with one training per generation.

The run folder holds the whole state: opt.yaml and hyp.yaml describe the search, evolve.csv has a row per finished
generation. A child depends only on the seed, its number and those rows: a resumed search equals an uninterrupted one.
"""

from __future__ import annotations

import gc
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from utils.config.hyp import Hyperparameters
from utils.config.train import TrainConfig
from utils.core.distributed import get_launched_world_size
from utils.core.errors import InputError
from utils.core.files import make_run_folder
from utils.core.logging import LOGGER
from utils.core.results_csv import read_rows
from utils.losses.meter import NotFiniteError
from utils.search.evolve_csv import Generation, read_generations, write_best_hyp, write_generations
from utils.search.genes import GENES, choose_parent, mutate, select_genes
from utils.search.plot import plot_evolution
from utils.tasks.registry import find_task
from utils.train.out_of_memory import fit_within_memory
from utils.train.resume import read_settings
from utils.train.run_lock import lock_run_folder, restore_run_folder, run_locks
from utils.train.settings import check_files, choose_task, get_run_name, load_hyp, load_source, write_settings
from utils.train.stop_request import STOP_FILE

RESUME_OVERRIDES = ("evolve", "device", "workers", "cache", "noplots")  # settings that may change on resume


@dataclass(frozen=True)
class EvolveResult:
    """Files of a search, and the fitness of its best generation."""

    save_dir: Path
    csv: Path
    hyp: Path
    generations: int
    fitness: float


def evolve(config: TrainConfig) -> EvolveResult:
    """Train one generation after another until there are `--evolve` N.

    Raises:
        InputError: invalid settings, or the loss of the first generation is not finite.
    """
    if get_launched_world_size() > 1:
        raise InputError("--evolve runs in one process: name a single --device, and do not use torchrun")
    config = resolve_config(config)
    folder = Path(config.project) / config.name
    with run_locks():
        lock_run_folder(folder)
        return search(config, folder)


def search(config: TrainConfig, folder: Path) -> EvolveResult:
    """Train in `folder`, which has the state of the search."""
    assert config.evolve is not None
    csv, best_hyp = folder / "evolve.csv", folder / "hyp_evolve.yaml"
    task = find_task(config.task)
    base_hyp = load_hyp(config, task.hyp_defaults)
    if not config.resume_evolve:
        write_settings(folder, config, base_hyp)
    names = [name for name in GENES if task.genes is None or name in task.genes]
    if config.noautoanchor and "anchors" in names:
        names.remove("anchors")  # only autoanchor uses their number
    population = [select_genes(hyp, names) for hyp in (base_hyp, *read_population(config.evolve_population))]
    rows = read_generations(csv, names, width=task.csv_width)
    for left in folder.glob(".generation-*"):  # by a killed process
        shutil.rmtree(left, ignore_errors=True)
    while len(rows) < config.evolve and not (folder / STOP_FILE).exists():
        number = next(n for n in count(1) if n not in {row.number for row in rows})
        genes = propose_genes(number, rows, population, seed=config.seed)
        values = ", ".join(f"{name} {value:g}" for name, value in genes.items())
        LOGGER.info(f"\nGeneration {number}/{config.evolve}: {values}")
        results, fitness = train_generation(config, folder / f".generation-{number}", base_hyp.to_dict() | genes, rows)
        rows.append(Generation(results, genes, fitness, number))
        if restore_run_folder(folder):
            LOGGER.warning(f"WARNING {folder}: removed during the search; made again")
            write_settings(folder, config, base_hyp)
        write_generations(csv, rows, width=task.csv_width)
        write_best_hyp(best_hyp, rows, base_hyp)
        if not config.noplots:
            plot_evolution(rows, folder / "evolve.png")
        rows = read_generations(csv, names)  # rounded, as a resumed search reads them
        LOGGER.info(f"\nGeneration {number}/{config.evolve}: fitness {fitness:.5g}, best {_best_fitness(rows):.5g}")
    LOGGER.info(
        f"\n{len(rows)} generations in {csv}, best fitness {_best_fitness(rows):.5g}\n"
        f"  best hyperparameters: --hyp {best_hyp}\n  to continue: python train.py --resume_evolve {folder} --evolve N"
    )
    return EvolveResult(folder, csv, best_hyp, len(rows), _best_fitness(rows))


def propose_genes(
    number: int, rows: Sequence[Generation], population: Sequence[dict[str, float]], *, seed: int
) -> dict[str, float]:
    """Genes of generation `number` (from 1): the population first, then mutations of a parent among `rows`."""
    if number <= len(population):
        return population[number - 1]
    rng = np.random.default_rng([seed, number, len(rows)])
    return mutate(rows[choose_parent(np.array([row.fitness for row in rows]), rng)].genes, rng)


def train_generation(
    config: TrainConfig, folder: Path, hyp: Mapping[str, Any], rows: Sequence[Generation]
) -> tuple[dict[str, float], float]:
    """Train in a temporary `folder`; results of the last epoch, and the fitness.

    Where the loss is not finite the results are nan and the fitness is 0; in the first generation the error is raised.
    """
    run = {"project": str(folder.parent), "name": folder.name, "exist_ok": True, "hyp": dict(hyp)}
    quick = {"evolve": None, "resume_evolve": "", "noval": True, "nosave": True, "noplots": True}
    try:
        with run_locks():
            return fit(_replace(config, **run, **quick))
    except NotFiniteError as error:
        if not rows:
            raise
        LOGGER.warning(f"WARNING: this generation has fitness 0: {error}")
        return dict.fromkeys(rows[0].results, float("nan")), 0.0
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        gc.collect()  # data loaders and networks are in reference cycles


def fit(config: TrainConfig) -> tuple[dict[str, float], float]:
    """Train; metrics and validation losses of the last epoch, and the fitness."""
    trainer, _ = fit_within_memory(config)
    trainer.callbacks.run("teardown")
    last_epoch = read_rows(trainer.save_dir / "results.csv")[-1]
    skipped = ("epoch", "train/", trainer.task.lr_column)
    results = {name: float(value) for name, value in last_epoch.items() if not name.startswith(skipped)}
    return results, trainer.stopping.best_fitness


def resolve_config(config: TrainConfig) -> TrainConfig:
    """Settings of a new or resumed search, with its folder and the defaults of its task."""
    if config.resume_evolve:
        config = _load_stored_config(config)
    config.check()
    check_files(config)
    task = choose_task(config, load_source(config))
    config = _replace(config.adapt_to(find_task(task).train_config), task=task)
    config.check()
    if config.resume_evolve:
        return config
    project = Path(config.project if "project" in config.explicit else config.project.replace("train", "evolve"))
    folder = make_run_folder(project / get_run_name(config), exist_ok=config.exist_ok)
    return _replace(config, project=str(folder.parent), name=folder.name, exist_ok=True)


def _load_stored_config(config: TrainConfig) -> TrainConfig:
    """Settings stored in the folder of a search, with `RESUME_OVERRIDES` from the command line."""
    path = Path(config.resume_evolve)
    folder = path.parent if path.suffix == ".csv" else path
    stored = read_settings(folder / "opt.yaml")
    if stored is None or stored.get("evolve") is None:
        problem = f"{folder / 'opt.yaml'} is missing" if stored is None else "is the folder of a training run"
        raise InputError(f"--resume_evolve {path}: {problem}; name the folder of an --evolve run")
    if ignored := sorted(config.explicit - {"resume_evolve", *RESUME_OVERRIDES}):
        LOGGER.warning(f"WARNING --resume_evolve keeps the settings of the search: ignored {', '.join(ignored)}")
    default = type(config)()
    known = {f.name for f in fields(config)}
    settings = {k: v for k, v in stored.items() if k in known and v != getattr(default, k)}
    settings |= {name: getattr(config, name) for name in config.explicit & set(RESUME_OVERRIDES)}
    settings |= {"project": str(folder.parent), "name": folder.name, "exist_ok": True, "resume_evolve": str(folder)}
    return type(config).from_kwargs(**settings | {"hyp": str(folder / "hyp.yaml")})


def read_population(folder: str) -> list[Hyperparameters]:
    """The hyp YAMLs in a folder, sorted by name; none for ''."""
    files = sorted(Path(folder).glob("*.yaml")) if folder else []
    if folder and not files:
        raise InputError(f"--evolve_population {folder}: no .yaml file in it; put hyp files there")
    return [Hyperparameters.load(file) for file in files]


def _replace(config: TrainConfig, **changes: Any) -> TrainConfig:
    """Like `dataclasses.replace`; changed settings count as given, so that the task's defaults do not replace them."""
    return replace(config, **changes, explicit=config.explicit | changes.keys())


def _best_fitness(rows: Sequence[Generation]) -> float:
    return max((row.fitness for row in rows), default=0.0)

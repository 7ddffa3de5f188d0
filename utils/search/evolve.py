"""`--evolve`: a genetic search for hyperparameters, one training a generation, by one process or several.

What belongs to a search lies in its folder: opt.yaml and hyp.yaml say what was started, evolve.csv has a row for each
generation, hyp_evolve.yaml the best recipe so far, evolve.png all of them. A child is a function of the seed, its
number and the rows it is bred from, so that a search which was killed and goes on ends like an undisturbed one.
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
import yaml

from utils.config.base import TrainConfig
from utils.config.hyp import Hyperparameters
from utils.core.distributed import launched_processes
from utils.core.errors import InputError
from utils.core.files import atomic_write, increment_path, make_run_folder
from utils.core.locks import FileLock
from utils.core.logging import LOGGER
from utils.losses.meter import NotFiniteError
from utils.search.evolve_csv import Generation, read_generations, write_generations
from utils.search.genes import DEFAULT_ANCHORS, GENES, choose_parent, limited, mutate
from utils.search.plot import plot_evolution
from utils.tasks.registry import find_task
from utils.train.out_of_memory import fit_within_memory
from utils.train.resume import read_settings
from utils.train.setup import choose_task, load_hyp, load_source, run_name, write_settings
from utils.train.stop_request import STOP_FILE

RESUME_OVERRIDES = ("evolve", "device", "workers", "cache", "noplots")  # what may change when a search goes on
CLAIM = "generation-{}.lock"


@dataclass(frozen=True)
class EvolveResult:
    """Where a search left its files, and how good its best recipe is."""

    save_dir: Path
    csv: Path
    hyp: Path
    generations: int
    fitness: float


@dataclass(frozen=True)
class Attempt:
    """A generation that this process trains: its number, its genes, and the lock that tells others of it."""

    number: int
    genes: dict[str, float]
    claim: FileLock


class Evolution:
    """The files of a search, shared by all processes that work on it.

    Args:
        folder: of the search.
        base: the recipe it starts from.
        genes: names of the hyperparameters that may change.
        population: recipes to try after the first one, before any is bred.
        total: generations wanted, of all processes together.
    """

    def __init__(
        self,
        folder: Path,
        base: Hyperparameters,
        genes: Sequence[str],
        *,
        total: int,
        population: Sequence[Hyperparameters] = (),
        seed: int = 0,
        width: int = 20,
        plotting: bool = True,
    ) -> None:
        self.folder, self.base, self.genes, self.total = folder, base, tuple(genes), total
        self.seed, self.width, self.plotting = seed, width, plotting
        self.given = [self._genes_of(hyp) for hyp in (base, *population)]
        self.csv, self.best = folder / "evolve.csv", folder / "hyp_evolve.yaml"
        self.lock = FileLock(folder / "evolve.lock")

    def rows(self) -> list[Generation]:
        """What is done so far."""
        return read_generations(self.csv, self.genes)

    def begin(self) -> Attempt | None:
        """The next generation to train; None once all are done or in other hands."""
        with self.lock:
            rows, running = self.rows(), self._running()
            if len(rows) + len(running) >= self.total:
                return None
            taken = {row.number for row in rows} | running
            number = next(n for n in count(1) if n not in taken)
            claim = FileLock(self.folder / CLAIM.format(number))
            claim.acquire()
            return Attempt(number, self.child(number, rows), claim)

    def is_stopped(self) -> bool:
        """Whether a file `stop` lies in the folder; it is left there for the other processes."""
        stop = self.folder / STOP_FILE
        if stop.exists():
            LOGGER.info(f"{stop}: found, the search ends here; remove it to go on")
        return stop.exists()

    def child(self, number: int, rows: Sequence[Generation]) -> dict[str, float]:
        """The genes of generation `number`: given ones first, then a mutated parent among `rows`."""
        if number <= len(self.given):
            return self.given[number - 1]
        rng = np.random.default_rng([self.seed, number, len(rows)])
        if not rows:  # the first one is still at work in another process
            return mutate(self.given[0], rng)
        return mutate(rows[choose_parent(np.array([row.fitness for row in rows]), rng)].genes, rng)

    def end(self, attempt: Attempt, results: Mapping[str, float], fitness: float) -> None:
        """Add a generation's row, and write the best recipe and the plot anew."""
        with self.lock:
            rows = [*self.rows(), Generation(dict(results), attempt.genes, fitness, attempt.number)]
            write_generations(self.csv, rows, width=self.width)
            self._write_best(rows)
            if self.plotting:
                plot_evolution(rows, self.folder / "evolve.png", GENES)
            self._drop(attempt.claim)
        LOGGER.info(f"\nGeneration {attempt.number} of {self.total}: fitness {fitness:.5g}, best so far {_best(rows)}")

    def recipe(self, genes: Mapping[str, float]) -> dict[str, Any]:
        """The whole recipe with these genes."""
        return {**self.base.to_dict(), **genes}

    def _genes_of(self, hyp: Hyperparameters) -> dict[str, float]:
        values = {"anchors": DEFAULT_ANCHORS, **hyp.to_dict()}
        return {name: limited(name, values[name]) for name in self.genes}

    def _running(self) -> set[int]:
        """Numbers of the generations that other processes train now; claims of killed ones are removed."""
        numbers = set()
        for file in self.folder.glob(CLAIM.format("*")):
            claim = FileLock(file)
            if claim.acquire(wait=False):
                self._drop(claim)
            else:
                numbers.add(int(file.stem.rpartition("-")[2]))
        return numbers

    def _drop(self, claim: FileLock) -> None:
        claim.release()
        claim.path.unlink(missing_ok=True)

    def _write_best(self, rows: Sequence[Generation]) -> None:
        best = max(rows, key=lambda row: row.fitness)
        reached = "".join(f"# {name}: {value:.5g}\n" for name, value in best.results.items())
        head = f"# The best of {len(rows)} generations, number {best.number}, fitness {best.fitness:.5g}:\n"
        text = yaml.safe_dump(self.recipe(best.genes), sort_keys=False, allow_unicode=True)
        with atomic_write(self.best) as temporary:
            temporary.write_text(f"{head}{reached}{text}", encoding="utf-8")


def evolve(config: TrainConfig) -> EvolveResult:
    """Train generation after generation until there are as many as `--evolve` says.

    Raises:
        InputError: a setting cannot be used, or the recipe that the search starts from does not train.
    """
    if launched_processes() > 1:
        raise InputError(
            "--evolve trains many small runs: start one `python train.py` a device, all with the same --project, "
            "--name and --exist-ok, and without torchrun"
        )
    config = prepared(config)
    search = build_search(config)
    while not search.is_stopped() and (attempt := search.begin()) is not None:
        shown = ", ".join(f"{name} {value:g}" for name, value in attempt.genes.items())
        LOGGER.info(f"\nGeneration {attempt.number} of {search.total}: {shown}")
        results, fitness = trained(config, search, attempt)
        search.end(attempt, results, fitness)
    rows = search.rows()
    LOGGER.info(
        f"\n{len(rows)} generations are in {search.csv}, best fitness {_best(rows)}\n"
        f"  its recipe: --hyp {search.best}\n  more: python train.py --resume_evolve {search.folder} --evolve N"
    )
    return EvolveResult(search.folder, search.csv, search.best, len(rows), max((r.fitness for r in rows), default=0.0))


def prepared(config: TrainConfig) -> TrainConfig:
    """The settings of the search, of a new one or of that which goes on, as those of its task."""
    if config.resume_evolve:
        config = _stored_settings(config)
    config.check()
    load_hyp(config)  # a wrong file is told before weights are fetched
    task = choose_task(config, load_source(config))
    config = _changed(config.adapted(find_task(task).traits.train_config), task=task)
    config.check()
    if config.resume_evolve:
        return config
    project = Path(config.project if "project" in config.given else config.project.replace("train", "evolve"))
    folder = increment_path(project / run_name(config), config.exist_ok)
    return _changed(config, project=str(folder.parent), name=folder.name, exist_ok=True)


def _stored_settings(config: TrainConfig) -> TrainConfig:
    """The settings in the folder of a search, with those that may change taken from the command line."""
    given = Path(config.resume_evolve)
    folder = given.parent if given.suffix == ".csv" else given
    stored = read_settings(folder / "opt.yaml")
    if stored is None:
        raise InputError(
            f"--resume_evolve {given}: {folder / 'opt.yaml'} is missing; name the folder of an --evolve run"
        )
    if stored.get("evolve") is None:
        raise InputError(
            f"--resume_evolve {given}: is the folder of one training, not of a search; "
            "name the folder of an --evolve run"
        )
    defaults = {f.name: getattr(type(config)(), f.name) for f in fields(config)}
    if ignored := sorted(config.given - {"resume_evolve", *RESUME_OVERRIDES}):
        LOGGER.warning(f"--resume_evolve keeps the settings of the search: ignored {', '.join(ignored)}")
    settings = {name: value for name, value in stored.items() if name in defaults and value != defaults[name]}
    settings |= {name: getattr(config, name) for name in config.given & set(RESUME_OVERRIDES)}
    place = {"project": str(folder.parent), "name": folder.name, "exist_ok": True, "resume_evolve": str(folder)}
    return type(config).from_kwargs(**settings | place | {"hyp": str(folder / "hyp.yaml")})


def build_search(config: TrainConfig) -> Evolution:
    """The search of checked settings, its folder made and described."""
    folder = make_run_folder(Path(config.project) / config.name)
    traits = find_task(config.task).traits
    base = load_hyp(config, traits.hyp_defaults)
    if not config.resume_evolve:
        write_settings(folder, config, base)
    genes = [name for name in GENES if traits.genes is None or name in traits.genes]
    if config.noautoanchor and "anchors" in genes:
        genes.remove("anchors")  # it is the number of anchors that are searched for
    assert config.evolve is not None
    return Evolution(
        folder,
        base,
        genes,
        total=config.evolve,
        population=read_population(config.evolve_population),
        seed=config.seed,
        width=traits.csv_width,
        plotting=not config.noplots,
    )


def read_population(folder: str) -> list[Hyperparameters]:
    """The recipes in a folder, by name; none for ''."""
    if not folder:
        return []
    files = sorted(Path(folder).glob("*.yaml"))
    if not files:
        raise InputError(f"--evolve_population {folder}: no .yaml file in it; put hyp files there")
    return [Hyperparameters.load(file) for file in files]


def trained(config: TrainConfig, search: Evolution, attempt: Attempt) -> tuple[dict[str, float], float]:
    """Results and fitness of a generation, whose files are removed."""
    name = f".generation-{attempt.number}"
    quick = {"noval": True, "nosave": True, "noplots": True, "exist_ok": True, "hyp": search.recipe(attempt.genes)}
    run = _changed(config, project=str(search.folder), name=name, evolve=None, resume_evolve="", **quick)
    folder = search.folder / name
    shutil.rmtree(folder, ignore_errors=True)  # of a process that was killed
    try:
        return measured(run)
    except NotFiniteError as error:
        rows = search.rows()
        if not rows:
            raise
        LOGGER.warning(f"this generation does not train: {error}")
        return dict.fromkeys(rows[0].results, float("nan")), 0.0
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        gc.collect()  # loaders and networks refer to each other


def measured(config: TrainConfig) -> tuple[dict[str, float], float]:
    """Train; metrics and validation losses of the last epoch, and the fitness."""
    numbers = LastNumbers()
    trainer, _ = fit_within_memory(config, numbers)
    trainer.callbacks.run("teardown")
    skipped = ("train/", trainer.task.traits.rate_name)
    results = {name: value for name, value in numbers.metrics.items() if not name.startswith(skipped)}
    return results, trainer.stopping.best_fitness


class LastNumbers:
    """Callback that keeps the numbers of the last epoch."""

    def __init__(self) -> None:
        self.metrics: dict[str, float] = {}

    def on_fit_epoch_end(self, *, metrics: Mapping[str, float], **_: Any) -> None:
        self.metrics = dict(metrics)


def _changed(config: TrainConfig, **changes: Any) -> TrainConfig:
    """The settings with others in place of some, all counted as given: tasks keep what was given."""
    return replace(config, **changes, given=config.given | changes.keys())


def _best(rows: Sequence[Generation]) -> str:
    return f"{max((row.fitness for row in rows), default=0.0):.5g}"

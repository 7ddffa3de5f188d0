from __future__ import annotations

import multiprocessing
from dataclasses import replace
from pathlib import Path

import cv2
import pytest
import yaml

import train
from utils.config.base import TrainConfig
from utils.config.hyp import Hyperparameters
from utils.core.errors import InputError
from utils.losses.meter import NotFiniteError
from utils.search import evolve as module
from utils.search.evolve import Evolution, evolve
from utils.search.evolve_csv import read_generations

GENES = ("lr0", "momentum", "mosaic")


def build(folder: Path, **options: object) -> Evolution:
    return Evolution(folder, Hyperparameters(), GENES, **{"total": 6, "plotting": False, **options})  # type: ignore[arg-type]


def score(genes: dict[str, float]) -> float:
    """Stands in for a training: best at lr0 0.02."""
    return 1 / (1 + abs(genes["lr0"] - 0.02) * 100)


def work(search: Evolution, most: int = 99) -> None:
    """Attempt generations as `evolve` does, with `score` for the training."""
    while most > 0 and (attempt := search.begin()) is not None:
        search.end(attempt, {"metrics/x": 0.5}, score(attempt.genes))
        most -= 1


def test_the_first_generation_is_the_recipe_itself_and_the_best_is_kept(tmp_path: Path) -> None:
    search = build(tmp_path)
    work(search)
    rows = search.rows()
    assert [row.number for row in rows] == [1, 2, 3, 4, 5, 6]
    assert rows[0].genes == {"lr0": 0.01, "momentum": 0.937, "mosaic": 1.0}
    best = max(rows, key=lambda row: row.fitness)
    kept = Hyperparameters.load(search.best)
    assert (kept.lr0, kept.momentum) == (best.genes["lr0"], best.genes["momentum"])
    assert f"number {best.number}, fitness {best.fitness:.5g}" in search.best.read_text()


def test_a_killed_search_goes_on_like_an_undisturbed_one(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    work(build(tmp_path / "a"))
    work(build(tmp_path / "b"), most=2)
    attempt = build(tmp_path / "b").begin()
    assert attempt is not None
    attempt.claim.release()  # what a kill leaves: the file, unlocked
    assert attempt.claim.path.exists()
    work(build(tmp_path / "b"))
    assert (tmp_path / "a/evolve.csv").read_text() == (tmp_path / "b/evolve.csv").read_text()
    assert not list((tmp_path / "b").glob("generation-*.lock"))


def test_generations_in_other_hands_are_not_repeated(tmp_path: Path) -> None:
    search = build(tmp_path, total=3)
    attempts = [search.begin() for _ in range(3)]
    assert search.begin() is None  # three are at work
    assert [attempt.number for attempt in attempts if attempt] == [1, 2, 3]
    genes = [attempt.genes for attempt in attempts if attempt]
    assert genes[0] != genes[1] != genes[2]
    for attempt in reversed(attempts):
        assert attempt is not None
        search.end(attempt, {"metrics/x": 0.5}, score(attempt.genes))
    assert [row.number for row in search.rows()] == [3, 2, 1]


def work_in(folder: str) -> None:
    work(build(Path(folder), total=40))


def test_several_processes_share_one_file(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=work_in, args=(str(tmp_path),)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert sorted(row.number for row in build(tmp_path).rows()) == list(range(1, 41))


def test_a_population_is_tried_first(tmp_path: Path) -> None:
    members = [replace(Hyperparameters(), lr0=value) for value in (0.02, 0.03)]
    search = build(tmp_path, population=members)
    work(search)
    assert [row.genes["lr0"] for row in search.rows()[:3]] == [0.01, 0.02, 0.03]


def flags(tiny_data: Path, folder: Path, *more: object) -> list[str]:
    base = ["--data", tiny_data, "--weights", "", "--cfg", "yolov5n.yaml", "--img", 64, "--batch", 12, "--workers", 0]
    base += ["--epochs", 1, "--device", "cpu", "--project", folder, "--name", "search", *more]
    return list(map(str, base))


@pytest.fixture(scope="module")
def searched(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a search of two generations."""
    folder = tmp_path_factory.mktemp("searched")
    train.main(flags(tiny_data, folder, "--evolve", 2))
    return folder / "search"


def test_trainings_become_rows_and_images(searched: Path) -> None:
    names = {file.name for file in searched.iterdir()}
    assert names == {"evolve.csv", "evolve.lock", "evolve.png", "hyp.yaml", "hyp_evolve.yaml", "opt.yaml"}
    header = [cell.strip() for cell in (searched / "evolve.csv").read_text().splitlines()[0].split(",")]
    assert header[:4] == [f"metrics/{name}" for name in ("precision", "recall", "mAP_0.5", "mAP_0.5:0.95")]
    assert header[4:8] == ["val/box_loss", "val/obj_loss", "val/cls_loss", "lr0"]
    assert header[-2:] == ["fitness", "generation"]
    assert len(header) == 7 + 29 + 2
    image = cv2.imread(str(searched / "evolve.png"))
    assert image.shape[1] > image.shape[0] > 500
    assert Hyperparameters.load(searched / "hyp_evolve.yaml").anchors == 3


def test_a_search_goes_on_with_its_own_settings(searched: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = (searched / "evolve.csv").read_text()
    result = evolve(TrainConfig.from_kwargs(resume_evolve=str(searched), evolve=3, noplots=True))
    after = (searched / "evolve.csv").read_text()
    assert after.startswith(before)
    assert result.generations == 3
    assert yaml.safe_load((searched / "opt.yaml").read_text())["evolve"] == 2
    again = evolve(TrainConfig.from_kwargs(resume_evolve=str(searched / "evolve.csv")))  # nothing left to do
    assert (again.generations, again.fitness) == (3, result.fitness)


@pytest.mark.parametrize("resume", ["", "weights/last.pt"])
def test_the_folder_of_one_training_is_no_search(resume: str, tmp_path: Path) -> None:
    """Also one that was resumed: it is not --resume that is wrong."""
    settings = TrainConfig(resume=resume).to_dict()
    (tmp_path / "opt.yaml").write_text(yaml.safe_dump(settings))
    for more in ({}, {"evolve": 3}):
        with pytest.raises(InputError, match="is the folder of one training, not of a search; name the folder"):
            evolve(TrainConfig.from_kwargs(resume_evolve=str(tmp_path), **more))


def test_a_stop_file_ends_a_search_between_generations(searched: Path) -> None:
    (searched / "stop").touch()
    try:
        before = (searched / "evolve.csv").read_text()
        evolve(TrainConfig.from_kwargs(resume_evolve=str(searched), evolve=99, noplots=True))
        assert (searched / "evolve.csv").read_text() == before
    finally:
        (searched / "stop").unlink()


def test_a_generation_that_breaks_down_counts_nothing(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = [({"metrics/x": 0.5}, 0.5), NotFiniteError("the loss is not finite"), ({"metrics/x": 0.4}, 0.4)]

    def trained(_config: TrainConfig) -> tuple[dict[str, float], float]:
        answer = answers.pop(0)
        if isinstance(answer, NotFiniteError):
            raise answer
        return answer

    monkeypatch.setattr(module, "measured", trained)
    result = evolve(TrainConfig.from_args(flags(tiny_data, tmp_path, "--evolve", 3, "--noplots", "--noautoanchor")))
    genes = [name for name in module.GENES if name != "anchors"]
    assert [row.fitness for row in read_generations(result.csv, genes)] == [0.5, 0.0, 0.4]
    answers[:] = [NotFiniteError("the loss is not finite")]
    with pytest.raises(NotFiniteError):  # the recipe that it starts from
        evolve(TrainConfig.from_args(flags(tiny_data, tmp_path / "new", "--evolve", 3)))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--evolve", "3", "--bucket", "gs://x"), "--bucket gs://x: no cloud program is started"),
        (("--evolve", "3", "--resume"), "--resume_evolve FOLDER"),
        (("--resume_evolve", "nowhere"), r"nowhere/opt\.yaml is missing"),
        (("--evolve", "3", "--evolve_population", "nowhere"), r"no \.yaml file"),
    ],
    ids=lambda value: value[-1] if isinstance(value, tuple) else None,
)
def test_what_cannot_be_searched_is_told(options: tuple[str, ...], text: str, tiny_data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=text):
        evolve(TrainConfig.from_args(flags(tiny_data, tmp_path, *options)))


def test_torchrun_is_not_how_a_search_is_shared(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="--exist-ok"):
        evolve(TrainConfig.from_args(flags(tiny_data, tmp_path, "--evolve", 2)))

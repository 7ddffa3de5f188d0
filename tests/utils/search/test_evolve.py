from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import cv2
import pytest
import yaml

import train
from utils.config.hyp import Hyperparameters
from utils.config.train import TrainConfig
from utils.core.errors import InputError
from utils.losses.meter import NotFiniteError
from utils.search import evolve as module
from utils.search.evolve import evolve
from utils.search.evolve_csv import Generation, read_generations, write_generations


def score(config: TrainConfig) -> tuple[dict[str, float], float]:
    """Replaces a training: best at lr0 0.02."""
    assert isinstance(config.hyp, Mapping)
    return {"metrics/x": 0.5}, 1 / (1 + abs(config.hyp["lr0"] - 0.02) * 100)


@pytest.fixture
def search(tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Generation]]:
    """Run a search with `score` for the training; the rows of its evolve.csv."""
    monkeypatch.setattr(module, "fit", score)

    def run(*more: object) -> list[Generation]:
        result = evolve(TrainConfig.from_args(flags(tiny_data, tmp_path, "--noplots", *more)))
        return read_generations(result.csv, list(module.GENES))

    return run


def test_first_generation_is_the_hyp_file_and_the_best_one_is_written(
    search: Callable[..., list[Generation]], tmp_path: Path
) -> None:
    rows = search("--evolve", 6)
    assert [row.number for row in rows] == [1, 2, 3, 4, 5, 6]
    assert (rows[0].genes["lr0"], rows[0].genes["momentum"], rows[0].genes["mosaic"]) == (0.01, 0.937, 1.0)
    best = max(rows, key=lambda row: row.fitness)
    file = tmp_path / "search/hyp_evolve.yaml"
    best_hyp = Hyperparameters.load(file)
    assert (best_hyp.lr0, best_hyp.momentum) == (best.genes["lr0"], best.genes["momentum"])
    assert f"number {best.number}, fitness {best.fitness:.5g}" in file.read_text()


def test_a_killed_search_resumes_like_an_uninterrupted_one(
    search: Callable[..., list[Generation]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search("--name", "a", "--evolve", 6)
    search("--name", "b", "--evolve", 2)
    folder = tmp_path / "b"

    def interrupt(config: TrainConfig) -> tuple[dict[str, float], float]:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "fit", interrupt)
    with pytest.raises(KeyboardInterrupt):
        evolve(TrainConfig.from_kwargs(resume_evolve=str(folder), evolve=6))
    monkeypatch.setattr(module, "fit", score)
    (folder / ".generation-3/weights").mkdir(parents=True)  # left by a kill
    evolve(TrainConfig.from_kwargs(resume_evolve=str(folder), evolve=6))
    assert (tmp_path / "a/evolve.csv").read_text() == (folder / "evolve.csv").read_text()
    assert not list(folder.glob(".generation-*"))


def test_missing_numbers_are_trained_first(search: Callable[..., list[Generation]], tmp_path: Path) -> None:
    """As in the evolve.csv of an earlier version that several processes wrote, or where a line was removed."""
    rows = search("--evolve", 4)
    write_generations(tmp_path / "search/evolve.csv", [rows[3], rows[0], rows[1]])
    resumed = search("--evolve", 4, "--exist-ok")
    assert [row.number for row in resumed] == [4, 1, 2, 3]


def test_population_is_tried_first(search: Callable[..., list[Generation]], tmp_path: Path) -> None:
    folder = tmp_path / "population"
    folder.mkdir()
    for name, value in (("a", 0.02), ("b", 0.03)):
        hyp = replace(Hyperparameters(), lr0=value)
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(hyp.to_dict()))
    rows = search("--evolve", 5, "--evolve_population", folder)
    assert [row.genes["lr0"] for row in rows[:3]] == [0.01, 0.02, 0.03]


def flags(tiny_data: Path, folder: Path, *more: object) -> list[str]:
    base = ["--data", tiny_data, "--weights", "", "--cfg", "yolov5n.yaml", "--img", 64, "--batch", 12, "--workers", 0]
    base += ["--epochs", 1, "--device", "cpu", "--project", folder, "--name", "search", *more]
    return list(map(str, base))


@pytest.fixture(scope="module")
def finished_search(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a search of two generations."""
    folder = tmp_path_factory.mktemp("search")
    train.main(flags(tiny_data, folder, "--evolve", 2))
    return folder / "search"


def test_files_of_a_search(finished_search: Path) -> None:
    names = {file.name for file in finished_search.iterdir()}
    assert names == {"evolve.csv", "evolve.png", "hyp.yaml", "hyp_evolve.yaml", "opt.yaml"}
    header = [cell.strip() for cell in (finished_search / "evolve.csv").read_text().splitlines()[0].split(",")]
    assert header[:4] == [f"metrics/{name}" for name in ("precision", "recall", "mAP_0.5", "mAP_0.5:0.95")]
    assert header[4:8] == ["val/box_loss", "val/obj_loss", "val/cls_loss", "lr0"]
    assert header[-2:] == ["fitness", "generation"]
    assert len(header) == 7 + 29 + 2
    image = cv2.imread(str(finished_search / "evolve.png"))
    assert image is not None
    assert image.shape[1] > image.shape[0] > 500
    assert Hyperparameters.load(finished_search / "hyp_evolve.yaml").anchors == 3


def test_a_resumed_search_keeps_its_settings(finished_search: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = (finished_search / "evolve.csv").read_text()
    result = evolve(TrainConfig.from_kwargs(resume_evolve=str(finished_search), evolve=3, noplots=True))
    after = (finished_search / "evolve.csv").read_text()
    assert after.startswith(before)
    assert result.generations == 3
    assert yaml.safe_load((finished_search / "opt.yaml").read_text())["evolve"] == 2
    again = evolve(TrainConfig.from_kwargs(resume_evolve=str(finished_search / "evolve.csv")))  # nothing left to do
    assert (again.generations, again.fitness) == (3, result.fitness)


@pytest.mark.parametrize("resume", ["", "weights/last.pt"])
def test_folder_of_a_training_run_cannot_be_resumed_as_a_search(resume: str, tmp_path: Path) -> None:
    """Also of a resumed run: the message does not blame --resume."""
    settings = TrainConfig(resume=resume).to_dict()
    (tmp_path / "opt.yaml").write_text(yaml.safe_dump(settings))
    for more in ({}, {"evolve": 3}):
        with pytest.raises(InputError, match="is the folder of a training run; name the folder of an --evolve run"):
            evolve(TrainConfig.from_kwargs(resume_evolve=str(tmp_path), **more))


def test_a_stop_file_ends_a_search_between_generations(finished_search: Path) -> None:
    (finished_search / "stop").touch()
    try:
        before = (finished_search / "evolve.csv").read_text()
        evolve(TrainConfig.from_kwargs(resume_evolve=str(finished_search), evolve=99, noplots=True))
        assert (finished_search / "evolve.csv").read_text() == before
    finally:
        (finished_search / "stop").unlink()


def test_a_generation_whose_loss_is_not_finite_has_fitness_0(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: list[tuple[dict[str, float], float] | NotFiniteError] = [
        ({"metrics/x": 0.5}, 0.5), NotFiniteError("the loss is not finite"), ({"metrics/x": 0.4}, 0.4)
    ]  # fmt: skip

    def fit(_config: TrainConfig) -> tuple[dict[str, float], float]:
        answer = answers.pop(0)
        if isinstance(answer, NotFiniteError):
            raise answer
        return answer

    monkeypatch.setattr(module, "fit", fit)
    result = evolve(TrainConfig.from_args(flags(tiny_data, tmp_path, "--evolve", 3, "--noplots", "--noautoanchor")))
    genes = [name for name in module.GENES if name != "anchors"]
    assert [row.fitness for row in read_generations(result.csv, genes)] == [0.5, 0.0, 0.4]
    answers[:] = [NotFiniteError("the loss is not finite")]
    with pytest.raises(NotFiniteError):  # in the first generation
        evolve(TrainConfig.from_args(flags(tiny_data, tmp_path / "new", "--evolve", 3)))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--evolve", "3", "--bucket", "gs://x"), "--bucket gs://x: cloud storage is not supported"),
        (("--evolve", "3", "--resume"), "--resume_evolve FOLDER"),
        (("--resume_evolve", "nowhere"), r"nowhere/opt\.yaml is missing"),
        (("--evolve", "3", "--evolve_population", "nowhere"), r"no \.yaml file"),
    ],
    ids=lambda value: value[-1] if isinstance(value, tuple) else None,
)
def test_errors_name_the_remedy(options: tuple[str, ...], text: str, tiny_data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=text):
        evolve(TrainConfig.from_args(flags(tiny_data, tmp_path, *options)))


def test_torchrun_is_refused(tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="--evolve runs in one process"):
        evolve(TrainConfig.from_args(flags(tiny_data, tmp_path, "--evolve", 2)))

"""The PaddlePaddle runtime: a mock of its predictor, the files beside it, and damaged folders."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from utils.backends.info import ModelInfo
from utils.backends.paddle import PaddleBackend, PredictorWithFallback, check_program, load_paddle
from utils.backends.trust import UntrustedError
from utils.core.errors import InputError

CPU = torch.device("cpu")


class MockPredictor:
    """Mock of paddle.inference.Predictor: gives every image's mean for each of three rows."""

    def __init__(self, shape: list[int], inputs: tuple[str, ...] = ("images",)) -> None:
        self.inputs, self.declared, self.reshaped, self.given = inputs, shape, None, np.zeros(0)

    def get_input_names(self) -> list[str]:
        return list(self.inputs)

    def get_output_names(self) -> list[str]:
        return ["fetch_0"]

    def get_input_handle(self, _: str) -> Any:
        def reshape(shape: list[int]) -> None:
            self.reshaped = shape

        def copy(array: np.ndarray) -> None:
            assert list(array.shape) == self.reshaped
            self.given = array

        return SimpleNamespace(shape=lambda: self.declared, reshape=reshape, copy_from_cpu=copy)

    def get_output_handle(self, _: str) -> Any:
        rows = self.given.mean(axis=(1, 2, 3))[:, None, None].repeat(3, 1).repeat(7, 2)
        return SimpleNamespace(copy_to_cpu=lambda: rows)

    def run(self) -> None:
        assert self.given.dtype == np.float32


def mock_packages(monkeypatch: pytest.MonkeyPatch, create: Any) -> None:
    """Put a mock of paddle and paddle.inference in the place of the package."""
    paddle, inference = ModuleType("paddle"), ModuleType("paddle.inference")
    paddle.__version__, paddle.is_compiled_with_cuda = "3.0-mock", lambda: False  # type: ignore[attr-defined]
    settings = ("disable_glog_info", "delete_pass", "set_cpu_math_library_num_threads", "disable_mkldnn")
    inference.Config = lambda *_: SimpleNamespace(**{name: lambda *_: None for name in settings})  # type: ignore[attr-defined]
    inference.create_predictor = create  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "paddle", paddle)
    monkeypatch.setitem(sys.modules, "paddle.inference", inference)


def opened(predictor: MockPredictor) -> PredictorWithFallback:
    return PredictorWithFallback(lambda fast: predictor, str)


def model_folder(place: Path) -> Path:
    folder = place / "dïsc 1_paddle_model"
    (folder / "inference_model").mkdir(parents=True)
    (folder / "inference_model/model.pdmodel").write_bytes(b"program")
    (folder / "inference_model/model.pdiparams").write_bytes(b"weights")
    (folder / "dïsc 1.yaml").write_text("stride: 32\nnames:\n  0: cät\n", encoding="utf-8")  # as the original writes it
    return folder


def test_fixed_batches_are_filled_up() -> None:
    backend = PaddleBackend("m", opened(MockPredictor([2, 3, 32, 64])), ModelInfo(), device=CPU, names={0: "cat"})
    assert (backend.fixed_hw, backend.fixed_batch, backend.names) == ((32, 64), 2, {0: "cat"})
    images = torch.arange(3.0)[:, None, None, None].expand(3, 3, 32, 64)
    assert backend.forward(images)[:, 0, 0].tolist() == [0, 1, 2]


def test_free_axes_are_free() -> None:
    backend = PaddleBackend("m", opened(MockPredictor([0])), ModelInfo(dynamic=True), device=CPU, names=None)
    assert (backend.fixed_hw, backend.fixed_batch) == (None, None)
    assert backend.forward(torch.ones(4, 3, 64, 32)).shape == (4, 3, 7)


@pytest.mark.parametrize("fails", ["create", "run"])
def test_plain_kernels_take_over_where_fast_ones_fail(fails: str) -> None:
    asked = []

    def create(fast: bool) -> MockPredictor:
        asked.append(fast)
        predictor = MockPredictor([1, 3, 32, 32])
        if fast and fails == "create":
            raise RuntimeError("no such kernel")
        if fast:
            predictor.run = lambda: 1 / 0
        return predictor

    backend = PaddleBackend("m", PredictorWithFallback(create, str), ModelInfo(), device=CPU, names=None)
    assert backend.forward(torch.ones(2, 3, 32, 32)).shape == (2, 3, 7)
    assert asked == [True, False]


def test_files_of_the_original_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mock_packages(monkeypatch, lambda _: MockPredictor([1, 3, 32, 32]))
    backend = load_paddle([str(model_folder(tmp_path))], device=CPU, names={0: "x"}, trust=True)
    assert (backend.stride, backend.names) == (32, {0: "cät"})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        pytest.param(lambda f: (f / "inference_model/model.pdmodel").unlink(), "no program", id="program"),
        pytest.param(
            lambda f: (f / "inference_model/model.pdiparams").write_bytes(b""), "missing or empty", id="weights"
        ),
        pytest.param(lambda f: (f / "dïsc 1.yaml").write_bytes(b"names: [\xff"), "is not UTF-8", id="yaml"),
        pytest.param(
            lambda f: (f / "dïsc 1.yaml").write_text("names: __import__('os').getcwd()"), "not evaluated", id="code"
        ),
    ],
)
def test_damaged_folders(damage: Any, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mock_packages(monkeypatch, lambda _: MockPredictor([1, 3, 32, 32]))
    folder = model_folder(tmp_path)
    damage(folder)
    with pytest.raises(InputError, match=message) as caught:
        load_paddle([str(folder)], device=CPU, trust=True)
    assert "\n" not in str(caught.value)


def test_what_the_package_says_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Any) -> None:
        raise RuntimeError(
            "\n---\nC++ Traceback\n0  paddle::load\nInvalidArgumentError: Cannot parse the program.\n at x"
        )

    mock_packages(monkeypatch, refuse)
    with pytest.raises(InputError, match=r"PaddlePaddle 3\.0-mock cannot run it \(InvalidArgumentError: Cannot parse"):
        load_paddle([str(model_folder(tmp_path))], device=CPU, trust=True)


def write_program(folder: Path, *kinds: str, name: str = "model.json") -> Path:
    """A program of PaddlePaddle 3 with operators of these kinds."""
    blocks = [{"#": "block_0", "ops": [{"#": kind, "A": [{"AT": {"#": "1.a_dtype"}}]} for kind in kinds]}]
    (folder / name).write_text(json.dumps({"program": {"regions": [{"#": "region_0", "blocks": blocks}]}}))
    return folder / name


def test_operators_that_compute_are_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_program(write_program(tmp_path, "p", "0.combine", "1.conv2d", "1.silu", "1.fetch"))
    mock_packages(monkeypatch, lambda _: MockPredictor([1, 3, 32, 32]))
    folder = model_folder(tmp_path)
    (folder / "inference_model/model.pdmodel").unlink()
    write_program(folder / "inference_model", "1.conv2d")
    assert load_paddle([str(folder)], device=CPU).names == {0: "cät"}


@pytest.mark.parametrize(
    "kind", ["1.read_file", "1.save_combine", "1.py_func", "2.conv2d", "pd_op.read_file", "conv2d", "1.a", "1.1.conv2d"]
)
def test_other_operators_need_trust(kind: str, tmp_path: Path) -> None:
    with pytest.raises(UntrustedError, match=rf"model\.json: operator {re.escape(kind)} may do more.*use --trust"):
        check_program(write_program(tmp_path, "1.conv2d", kind))
    program = write_program(tmp_path, "1.conv2d")
    repeated_key = program.read_text().replace('"1.conv2d"', f'"{kind}", "\\u0023": "1.conv2d"')
    program.write_text(repeated_key)
    with pytest.raises(UntrustedError, match=f"operator {re.escape(kind)}"):
        check_program(program)


def test_programs_of_paddle_2_need_trust(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mock_packages(monkeypatch, lambda _: MockPredictor([1, 3, 32, 32]))
    with pytest.raises(UntrustedError, match=r"model\.pdmodel: programs of PaddlePaddle 2 are not checked .*--trust"):
        load_paddle([str(model_folder(tmp_path))], device=CPU)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[" * 100_000])
def test_damaged_programs(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.json").write_bytes(content)
    with pytest.raises(
        InputError, match=r"model\.json: damaged or not a PaddlePaddle program; copy or export it again"
    ):
        check_program(tmp_path / "model.json")


def test_two_inputs_are_refused() -> None:
    with pytest.raises(InputError, match="expected a batch of images as the only input, found x, im_shape"):
        predictor = MockPredictor([1, 3, 32, 32], ("x", "im_shape"))
        PaddleBackend("m", opened(predictor), ModelInfo(), device=CPU, names=None)


def test_a_missing_package_or_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "paddle", None)
    with pytest.raises(InputError, match=r"PaddlePaddle models.*pip install paddlepaddle"):
        load_paddle([str(model_folder(tmp_path))], device=CPU)
    with pytest.raises(InputError, match=r"no such file or folder; export one with: .* --include paddle"):
        load_paddle([str(tmp_path / "x_paddle_model")], device=CPU)


@pytest.mark.slow
@pytest.mark.parametrize("kept", [0.0, 0.3], ids=["empty", "cut"])
@pytest.mark.parametrize("name", ["model.json", "model.pdiparams"])
def test_truncated_files_in_the_real_package(name: str, kept: float, tmp_path: Path) -> None:
    pytest.importorskip("paddle")
    from tiny_jobs import build_tiny_job

    from utils.export.paddle import export_paddle

    folder = export_paddle(build_tiny_job(tmp_path))
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(InputError) as caught:
        load_paddle([str(folder)], device=CPU)
    assert "\n" not in str(caught.value)

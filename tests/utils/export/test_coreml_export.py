"""CoreML packages: written and described on any system; nothing here can run them."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_jobs import NAMES, tiny_job

from utils.errors import InputError
from utils.export.coreml import export_coreml


def operations(package: Path) -> list[str]:
    """Types of the operations in a package, from its spec."""
    tools = pytest.importorskip("coremltools")
    spec = tools.models.MLModel(str(package), skip_model_load=True).get_spec()
    blocks = next(iter(spec.mlProgram.functions.values())).block_specializations
    return [operation.type for operation in next(iter(blocks.values())).operations]


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["full", "half", "int8"])
def test_package_describes_itself(precision: str, tmp_path: Path) -> None:
    tools = pytest.importorskip("coremltools")
    job = tiny_job(tmp_path, **({} if precision == "full" else {precision: True}))
    package = export_coreml(job)
    assert package == tmp_path / "tiny mödel.mlpackage"
    assert sorted(p.name for p in tmp_path.iterdir()) == [package.name]
    spec = tools.models.MLModel(str(package), skip_model_load=True).get_spec()
    (source,), (output,) = spec.description.input, spec.description.output
    picture = source.type.imageType
    assert (source.name, picture.height, picture.width) == ("image", 64, 96)
    assert picture.colorSpace == tools.proto.FeatureTypes_pb2.ImageFeatureType.RGB
    assert (output.name, list(output.type.multiArrayType.shape)) == ("output0", [1, 2 * (8 * 12 + 4 * 6), 7])
    stored = spec.description.metadata.userDefined
    assert (stored["stride"], stored["names"], stored["task"]) == ("16", str(NAMES), "detect")
    kinds = operations(package)
    assert ("cast" in kinds) == (precision == "half")
    assert ("constexpr_affine_dequantize" in kinds) == (precision == "int8")


@pytest.mark.slow
def test_suppression_is_a_part_of_the_package(tmp_path: Path) -> None:
    tools = pytest.importorskip("coremltools")
    package = export_coreml(tiny_job(tmp_path, nms=True))
    export_coreml(tiny_job(tmp_path, nms=True, half=True))  # over the first one
    spec = tools.models.MLModel(str(package), skip_model_load=True).get_spec()
    assert list(spec.description.output[0].type.multiArrayType.shape) == [1, 20, 6]
    assert spec.description.metadata.userDefined["nms"] == "True"
    assert "non_maximum_suppression" in operations(package)


def test_settings_that_coreml_has_not(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--batch-size 4: CoreML takes one picture at a time"):
        export_coreml(tiny_job(tmp_path, batch=4))

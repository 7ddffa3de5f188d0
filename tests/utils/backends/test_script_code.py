"""TorchScript code: what a traced network does is accepted, anything else is named with its place."""

from __future__ import annotations

import pytest
import torch

from utils.backends.operators import TORCH_OPERATORS
from utils.backends.script_code import MAX_OPERATIONS, TEXT_OPERATORS, check_code
from utils.backends.trust import UntrustedError
from utils.core.errors import InputError

NETWORK = "code/__torch__/net.py"
LAYER = "code/__torch__/torch/nn/modules/conv.py"
CONV = """class Conv2d(Module):
  __parameters__ = ["weight", ]
  __buffers__ = []
  weight : Tensor
  training : bool
  _is_full_backward_hook : Optional[bool]
  def forward(self: __torch__.torch.nn.modules.conv.Conv2d,
    images: Tensor) -> Tensor:
    weight = self.weight
    _0 = torch._convolution(images, weight, None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1, False, False, True, True)
    return torch.silu_(_0)
"""
NET = """class Net(Module):
  __annotations__ = []
  __annotations__["0"] = __torch__.torch.nn.modules.conv.Conv2d
  act : __torch__.torch.nn.modules.conv.Conv2d
  def forward(self: __torch__.net.Net,
    images: Tensor) -> Tuple[Tensor, Tensor]:
    act = self.act
    _0 = getattr(self, "0")
    x = (_0).forward(images, )
    a, b, = torch.split(x, [1, -2], dim=1)
    height = int(ops.prim.NumToTensor(torch.size(x, 2)))
    indices = annotate(List[Optional[Tensor]], [None, CONSTANTS.c0])
    c = torch.clamp(torch.add_(a, b, alpha=1), -inf, 0.5)
    _1 = (c, torch.index(x, indices), )
    return _1
"""


def network(line: str) -> dict[str, bytes]:
    """The code of a network whose forward has `line` as its fourth statement, on line 10."""
    body = NET.replace("    a, b, =", f"    {line}\n    a, b, =")
    return {LAYER: CONV.encode(), NETWORK: body.encode()}


def test_network_is_accepted() -> None:
    classes = check_code({LAYER: CONV.encode(), NETWORK: NET.encode()}, "m")
    conv = "__torch__.torch.nn.modules.conv.Conv2d"
    assert classes[conv].fields == {"weight": "Tensor", "training": "bool", "_is_full_backward_hook": "Optional[bool]"}
    assert classes["__torch__.net.Net"].fields == {"0": conv, "act": conv}


def test_layer_as_an_argument() -> None:
    source = NET.replace("images: Tensor)", "images: Tensor,\n    act: __torch__.torch.nn.modules.conv.Conv2d)")
    source = source.replace("    act = self.act\n", "").replace("(_0).forward", "(act).forward")
    assert len(check_code({LAYER: CONV.encode(), NETWORK: source.encode()}, "m")) == 2


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('torch.save(x, "made")', r"a call of torch\.save"),
        ('y = torch.from_file("/etc/passwd", False, 9)', r"a call of torch\.from_file"),
        ('y = ops.image.read_file("/etc/passwd")', r"a call of ops\.image\.read_file"),
        ('y = ops.aten.save(x, "made")', r"a call of ops\.aten\.save"),
        ('y = x.save("made")', r"a call of x\.save"),
        ('y = (x).save("made")', r"a call of x\.save"),
        ("save = torch.save", "name torch"),
        ('y = getattr(torch, "save")', "name torch"),
        ('y = getattr(x, "save")', "attribute save"),
        ("int = x", "a variable int"),
        ("torch = ops.image", "name ops"),
        ("y = ops", "name ops"),
        ("y = [torch.save][0](x)", "a call of Subscript expression"),
        ("y = __torch__.other.function(x)", r"a call of __torch__\.other\.function"),
        ("y = __torch__.torch.classes.dist_c10d.FileStore(x, 1)", r"a call of __torch__\.torch\.classes\.dist_c10d"),
        ("y = (_0).backward(x)", r"a call of _0\.backward"),
        ("y = (x).forward(x)", r"a call of x\.forward"),
        ("y = fork(x)", "a call of fork"),
        ("y = unchecked_cast(__torch__.net.Net, x)", "a call of unchecked_cast"),
        ("y = annotate(Future[Tensor], x)", "type Subscript expression"),
        ("y = self.other", "attribute other"),
        ("y = unknown", "name unknown"),
        ("y = x[0]", "Subscript expression"),
        ("y = -x", "UnaryOp expression"),
        ("y = lambda: x", "Lambda expression"),
        ('y = f"{x}"', "JoinedStr expression"),
        ("self.act = x", "Attribute expression"),
        ("while True: pass", "While statement"),
        ("if True: pass", "If statement"),
        ("import os", "Import statement"),
        ("y = 1j", "Constant expression"),
        ('y = "a"', "Constant expression"),
        ('y = torch.add("a", "a")', "Constant expression"),
        ("y = b'a'", "Constant expression"),
        ("y = " + "[" * 150 + "]" * 150, "unusual syntax|nested over 100 levels"),
    ],
)
def test_other_code_is_refused(line: str, reason: str) -> None:
    with pytest.raises(UntrustedError, match=rf"^m\.torchscript: {NETWORK}:10: {reason}.*use --trust \(hub: trust="):
        check_code(network(line), "m.torchscript")


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("def forward(", "def __setstate__(", "8: method __setstate__|5: method __setstate__"),
        ("def forward(self: __torch__.net.Net,", "def forward(self: __torch__.net.Net, *,", "unusual arguments"),
        ("images: Tensor)", "images: Future[Tensor])", "type Subscript expression"),
        ("class Net(Module):", "class Net(Interface):", "a class that is not a layer"),
        ("class Net(Module):", "def f(x: Tensor):\n  return x\nclass Net(Module):", "1: definition of f"),
        ("act : __torch__", "act : __torch__.a = 1\n  x : __torch__", "AnnAssign statement"),
        ("act : ", "__annotations__[0] = Tensor\n  act : ", "Assign statement"),
        ("act : ", "act : Tensor\n  act : ", "AnnAssign statement"),
        ("    return", "\treturn", "unusual characters"),
        ("    return", "    # a comment\r    return", "unusual characters"),
        ("Net", "N\u00e9t", "unusual characters"),
        ("    return _1", "    return (", "unusual syntax"),
        ("    return _1", "    return " + "-" * 200_000 + "1", "unusual syntax|UnaryOp expression"),
    ],
)
def test_other_classes_are_refused(old: str, new: str, reason: str) -> None:
    source = NET.replace(old, new, 1)
    assert source != NET
    with pytest.raises(UntrustedError, match=reason):
        check_code({LAYER: CONV.encode(), NETWORK: source.encode()}, "m")


@pytest.mark.parametrize(
    "place",
    ["code/__torch__/a.b.py", "code/other.py", "code/__torch__/torch/classes/quantized.py", "code/__torch__/../x.py"],
)
def test_other_places_are_refused(place: str) -> None:
    with pytest.raises(UntrustedError, match="unusual characters"):
        check_code({place: CONV.encode()}, "m")


def test_class_that_is_defined_twice() -> None:
    with pytest.raises(UntrustedError, match=r"conv\.py:12: class __torch__\.torch\.nn\.modules\.conv\.Conv2d is defi"):
        check_code({LAYER: (CONV + CONV).encode()}, "m")


def double_layers(count: int) -> dict[str, bytes]:
    """Layers that each call the next one twice."""
    source = "class L0(Module):\n  def forward(self: __torch__.L0, x: Tensor) -> Tensor:\n    return x\n"
    for i in range(1, count):
        source += (
            f"class L{i}(Module):\n  m : __torch__.L{i - 1}\n"
            f"  def forward(self: __torch__.L{i}, x: Tensor) -> Tensor:\n    m = self.m\n"
            "    return (m).forward((m).forward(x, ), )\n"
        )
    return {"code/__torch__.py": source.encode()}


def test_work_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(check_code(double_layers(15), "m")) == 15
    with pytest.raises(InputError, match=rf"^m: [\d,]+ operations, the limit is {MAX_OPERATIONS:,}; use --no-limits"):
        check_code(double_layers(90), "m")
    monkeypatch.setenv("YOLOv5_NO_LIMITS", "1")
    assert len(check_code(double_layers(90), "m")) == 90
    with pytest.raises(UntrustedError, match="layers nested over 100 levels"):
        check_code(double_layers(150), "m")


def test_layer_that_calls_itself() -> None:
    source = (
        "class A(Module):\n  def forward(self: __torch__.A, x: Tensor) -> Tensor:\n    return (self).forward(x, )\n"
    )
    with pytest.raises(UntrustedError, match="layers nested over 100 levels"):
        check_code({"code/__torch__.py": source.encode()}, "m")


def test_operators_exist_and_take_no_file_names() -> None:
    """A text can only be given to the operators of TEXT_OPERATORS, where it is a mode."""
    schemas = [s for s in torch._C._jit_get_all_schemas() if s.name.startswith("aten::")]
    names = {schema.name.removeprefix("aten::") for schema in schemas}
    assert {name for name in TORCH_OPERATORS if name not in names and f"{name}_" not in names} == set()
    texts = set()
    for schema in schemas:
        if schema.name.replace("aten::", "torch.") in TEXT_OPERATORS:
            texts |= {a.name for a in schema.arguments if str(a.type) in ("str", "Optional[str]", "List[str]")}
    assert texts == {"a", "type", "rounding_mode", "equation", "approximate", "indexing", "mode"}  # device(a), (type)

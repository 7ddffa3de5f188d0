"""Check of TorchScript code: it may only compute.

The code of a traced network is one class per layer, whose methods are assignments of operator calls and a return. Only
that is accepted, with the operators of `TORCH_OPERATORS`: no control flow, no other functions, no method that runs when
the file is loaded. Such code ends, and has no effect but its result.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from utils.backends.operators import TORCH_OPERATORS
from utils.backends.trust import UntrustedError
from utils.core.limits import check_limit

TEXT_OPERATORS = frozenset({"torch.device", "torch.div", "torch.einsum", "torch.gelu", "torch.meshgrid", "torch.pad"})
OTHER_OPERATORS = frozenset({"ops.prim.NumToTensor", "ops.torchvision.nms"})
CONVERSIONS = frozenset({"int", "float", "bool"})
CONSTANTS = "CONSTANTS"  # table of tensors
NUMBERS = frozenset({"inf", "nan"})
RESERVED = CONVERSIONS | NUMBERS | {CONSTANTS, "torch", "ops", "__torch__", "annotate", "getattr"}
SCALARS = frozenset({"Tensor", "bool", "int", "float", "number", "NoneType"})
GENERICS = frozenset({"Optional", "List", "Tuple"})
LISTS = frozenset({"__parameters__", "__buffers__", "__annotations__"})  # class variables without a meaning here
METHOD = re.compile(r"forward\d*")  # the n-th call of a layer has its own method
FOREIGN = re.compile(r"[^\n -~]")  # characters that PyTorch does not write, which Python may read otherwise
# Some classes of PyTorch's own, which it prefers to those of the file, have other types.
CODE_FILE = re.compile(r"code/(__torch__(?!/torch/classes|/torch/nn/quantized)(?:/\w+)*)\.py", re.ASCII)
MAX_DEPTH = 100  # of expressions and of layers in layers
MAX_OPERATIONS = 10_000_000  # of one run


@dataclass
class ScriptMethod:
    """What a method does.

    Attributes:
        operations: number of expressions.
        calls: the methods that it calls, as (class, method).
    """

    operations: int = 0
    calls: list[tuple[str, str]] = field(default_factory=list)


@dataclass
class ScriptClass:
    """A class of the code.

    Attributes:
        place: file in the archive.
        fields: types of the attributes, "Tensor" or a class name, by attribute.
        methods: definitions by name.
    """

    place: str
    fields: dict[str, str] = field(default_factory=dict)
    methods: dict[str, ast.FunctionDef] = field(default_factory=dict)


class _RefusedError(Exception):
    """A node that a traced network does not have."""

    def __init__(self, reason: str, node: ast.AST) -> None:
        super().__init__(reason)
        self.line = getattr(node, "lineno", 1)


def check_code(sources: Mapping[str, bytes], file: str) -> dict[str, ScriptClass]:
    """The classes of the code by qualified name.

    Args:
        sources: content by file in the archive, such as "code/__torch__/models/yolo.py".
        file: for messages.

    Raises:
        UntrustedError: the code may do more than compute; the message has file, place and reason.
    """
    classes: dict[str, ScriptClass] = {}
    for place, source in sources.items():
        try:
            for name, definition in _read_classes(place, source):
                if name in classes:
                    raise _RefusedError(f"class {name[-60:]} is defined twice", definition)
                classes[name] = _read_class(place, definition)
        except _RefusedError as error:
            raise refuse(file, f"{place}:{error.line}", str(error)) from error
    methods: dict[tuple[str, str], ScriptMethod] = {}
    for name, script in classes.items():
        for method in script.methods.values():
            try:
                methods[name, method.name] = _MethodReader(name, classes).read(method)
            except _RefusedError as error:
                raise refuse(file, f"{script.place}:{error.line}", str(error)) from error
    _check_size(methods, classes, file)
    return classes


def refuse(file: str, place: str, reason: str) -> UntrustedError:
    """The error for a file that may do more than compute."""
    return UntrustedError(f"{file}: {place}", f"{reason}, which no traced network has: it may do more than compute")


def _read_classes(place: str, source: bytes) -> Iterator[tuple[str, ast.ClassDef]]:
    """The class definitions of a file, by qualified name."""
    match = CODE_FILE.fullmatch(place)
    text = source.decode("latin-1")
    if match is None or FOREIGN.search(text):
        raise _RefusedError("unusual characters", ast.Pass())
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise _RefusedError("unusual syntax", ast.Pass(lineno=getattr(error, "lineno", None) or 1)) from error
    for node in tree.body:
        if not isinstance(node, ast.ClassDef):
            raise _RefusedError(_describe(node), node)
        yield f"{match[1].replace('/', '.')}.{node.name}", node


def _read_class(place: str, definition: ast.ClassDef) -> ScriptClass:
    script = ScriptClass(place)
    if [_join_name(base) for base in definition.bases] != ["Module"] or definition.decorator_list:
        raise _RefusedError("a class that is not a layer", definition)
    for node in definition.body:
        name = kind = ""
        if isinstance(node, ast.FunctionDef):
            if not METHOD.fullmatch(node.name) or node.name in script.methods:
                raise _RefusedError(f"method {node.name[:60]}", node)
            script.methods[node.name] = node
            continue
        if isinstance(node, ast.AnnAssign) and node.value is None and isinstance(node.target, ast.Name):
            name, kind = node.target.id, _read_type(node.annotation)
        elif isinstance(node, ast.Assign) and len(node.targets) == 1:
            target = node.targets[0]
            if isinstance(target, ast.Name) and target.id in LISTS and isinstance(node.value, ast.List):
                continue
            if isinstance(target, ast.Subscript) and _join_name(target.value) == "__annotations__":
                name, kind = getattr(target.slice, "value", ""), _read_type(node.value)
        if not isinstance(name, str) or not name or name in script.fields:
            raise _RefusedError(_describe(node), node)
        script.fields[name] = kind
    return script


class _MethodReader:
    """Checks a method and collects what it calls."""

    def __init__(self, owner: str, classes: Mapping[str, ScriptClass]) -> None:
        self.owner, self.classes = owner, classes
        self.method = ScriptMethod()
        self.types: dict[str, str] = {}  # of local variables: a class, or anything else for other types

    def read(self, definition: ast.FunctionDef) -> ScriptMethod:
        arguments = definition.args
        names = [argument.arg for argument in arguments.args]
        others = (arguments.posonlyargs, arguments.kwonlyargs, arguments.vararg, arguments.kwarg, arguments.defaults)
        if not names or any(others) or definition.decorator_list:
            raise _RefusedError("unusual arguments", definition)
        self._assign(names[0], self.owner, definition)
        for argument in arguments.args[1:]:
            self._assign(argument.arg, _read_type(argument.annotation), argument)
        for node in definition.body:
            self._read_statement(node)
        return self.method

    def _read_statement(self, node: ast.stmt) -> None:
        if isinstance(node, ast.Assign) and len(node.targets) == 1:
            target, kind = node.targets[0], self._read_value(node.value)
            for part in target.elts if isinstance(target, ast.Tuple) else [target]:
                if not isinstance(part, ast.Name):
                    raise _RefusedError(_describe(part), part)
                self._assign(part.id, kind if part is target else "", part)
        elif isinstance(node, ast.Return | ast.Expr) and node.value is not None:
            self._read_value(node.value)
        else:
            raise _RefusedError(_describe(node), node)

    def _assign(self, name: str, kind: str, node: ast.AST) -> None:
        if name in RESERVED:
            raise _RefusedError(f"a variable {name}", node)
        self.types[name] = kind

    def _read_value(self, node: ast.expr, depth: int = 0) -> str:
        """Check an expression; the class of its value, "" for other types."""
        self.method.operations += 1
        if depth > MAX_DEPTH:
            raise _RefusedError(f"an expression nested over {MAX_DEPTH} levels", node)
        if isinstance(node, ast.Name) and node.id in self.types:
            return self.types[node.id]
        if isinstance(node, ast.Call):
            return self._read_call(node, depth + 1)
        if isinstance(node, ast.Attribute):
            if _join_name(node.value) == CONSTANTS:
                return ""
            return self._read_field(node.value, node.attr, node, depth + 1)
        if isinstance(node, ast.List | ast.Tuple):
            for part in node.elts:
                self._read_value(part, depth + 1)
            return ""
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and _is_constant(node.operand):
            return ""
        if _is_constant(node):
            return ""
        raise _RefusedError(_describe(node), node)

    def _read_call(self, node: ast.Call, depth: int) -> str:
        function, arguments = node.func, [*node.args, *(keyword.value for keyword in node.keywords)]
        name, result = _join_name(function), ""
        if name == "annotate" and arguments:
            _read_type(arguments.pop(0))
        elif name == "getattr" and len(arguments) == 2 and isinstance(attribute := arguments[1], ast.Constant):
            arguments, result = [], self._read_field(arguments[0], attribute.value, node, depth)
        elif not (_is_operator(name) or name in OTHER_OPERATORS or name in CONVERSIONS):
            self._read_method_call(function, depth)
        for argument in arguments:
            if not (name in TEXT_OPERATORS and isinstance(argument, ast.Constant) and isinstance(argument.value, str)):
                self._read_value(argument, depth)
        return result

    def _read_method_call(self, function: ast.expr, depth: int) -> None:
        """Check a call of a layer's method."""
        if isinstance(function, ast.Attribute) and _get_root(function) not in RESERVED:
            owner = self._read_value(function.value, depth)
            if owner in self.classes and function.attr in self.classes[owner].methods:
                self.method.calls.append((owner, function.attr))
                return
        raise _RefusedError(f"a call of {(_join_name(function) or _describe(function))[:80]}", function)

    def _read_field(self, owner: ast.expr, attribute: object, node: ast.AST, depth: int) -> str:
        """Check the access to a layer's attribute; the class of its value."""
        script = self.classes.get(self._read_value(owner, depth))
        if script is None or not isinstance(attribute, str) or attribute not in script.fields:
            raise _RefusedError(f"attribute {str(attribute)[:60]}", node)
        kind = script.fields[attribute]
        return kind if kind in self.classes else ""


def _is_constant(node: ast.expr) -> bool:
    """Whether an expression is a number, True, False or None."""
    if isinstance(node, ast.Name):
        return node.id in NUMBERS
    return isinstance(node, ast.Constant) and isinstance(node.value, int | float | None)


def _is_operator(name: str) -> bool:
    """Whether a name is that of an allowed operator, or of its in-place variant."""
    module, _, operator = name.rpartition(".")
    return module == "torch" and (operator in TORCH_OPERATORS or operator.removesuffix("_") in TORCH_OPERATORS)


def _read_type(node: ast.expr | None) -> str:
    """A type as text: a scalar, a class of the file, or a generic of these."""
    name = _join_name(node)
    if name in SCALARS or name.startswith("__torch__."):
        return name
    if isinstance(node, ast.Subscript) and (generic := _join_name(node.value)) in GENERICS:
        parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        return f"{generic}[{', '.join(map(_read_type, parts))}]"
    raise _RefusedError(f"type {(name or _describe(node))[:60]}", node or ast.Pass())


def _join_name(node: ast.AST | None) -> str:
    """The name that an expression is, such as "torch.add"; "" for other expressions."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return ""
    return ".".join([node.id, *reversed(parts)])


def _get_root(node: ast.AST) -> str:
    """The first part of a name; "" for other expressions."""
    return _join_name(node).partition(".")[0]


def _describe(node: ast.AST | None) -> str:
    """What a node is, for messages."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return f"definition of {node.name[:60]}"
    if isinstance(node, ast.Name):
        return f"name {node.id[:60]}"
    return f"{type(node).__name__} statement" if isinstance(node, ast.stmt) else f"{type(node).__name__} expression"


def _check_size(methods: Mapping[tuple[str, str], ScriptMethod], classes: Mapping[str, ScriptClass], file: str) -> None:
    """Bound the depth of calls and the number of operations, calls included, of every method."""
    sizes: dict[tuple[str, str], tuple[int, int]] = {}  # (operations, depth)

    def measure(key: tuple[str, str], level: int = 0) -> tuple[int, int]:
        if key not in sizes and level <= MAX_DEPTH:
            called = [measure(call, level + 1) for call in methods[key].calls]
            operations = methods[key].operations + sum(count for count, _ in called)
            sizes[key] = operations, 1 + max((depth for _, depth in called), default=0)
        operations, depth = sizes.get(key, (0, MAX_DEPTH + 1))
        if depth > MAX_DEPTH:
            script = classes[key[0]]
            place = f"{script.place}:{script.methods[key[1]].lineno}"
            raise refuse(file, place, f"layers nested over {MAX_DEPTH} levels")
        return operations, depth

    largest = max((measure(key)[0] for key in methods), default=0)
    check_limit(file, "operations", min(largest, 10**18), MAX_OPERATIONS)

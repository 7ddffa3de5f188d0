"""Pickle reader: the values of `pickle`, from a table of functions and in linear time."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import pytest

from models.pickle_reader import Global, PickledObject, PickleReader, RefusedGlobalError, list_globals
from tests.hostile_checkpoints import encode_call, encode_global, encode_int, encode_pickle, encode_text, encode_tuple


def read(content: bytes, table: dict[str, Any] | None = None, count_items: Callable[[int], None] = abs) -> Any:
    return PickleReader(content, table or {}, load_external=lambda _: None, count_items=count_items).read()


@pytest.mark.parametrize(
    "value",
    [
        pytest.param([None, True, False, 0, -1, 255, 65535, 2**31, -(2**80), 0.5, "", "ж\0"], id="scalars"),
        pytest.param({"a": {1: [], None: ()}, True: {}, "": [[]]}, id="mappings"),
        pytest.param([(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), [[], [1], [1, 2]]], id="sequences"),
        pytest.param([list(range(2000)), {str(i): i for i in range(2000)}], id="in batches"),
    ],
)
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_values(value: Any, protocol: int) -> None:
    result = read(pickle.dumps(value, protocol))
    assert result == value
    assert repr(result) == repr(value)


@pytest.mark.parametrize("protocol", [4, 5])
def test_values_of_later_protocols(protocol: int) -> None:
    value = [b"", b"x" * 300, {1, "a"}, frozenset([2]), {"k": "x" * 300}, "x" * 300]
    value += [bytearray(b"yz")] if protocol == 5 else []
    assert read(pickle.dumps(value, protocol)) == value


def test_shared_values_stay_shared() -> None:
    inner: list[Any] = [1]
    result = read(pickle.dumps([inner, inner, {"a": inner}], protocol=2))
    assert result[0] is result[1] is result[2]["a"]


def test_only_functions_of_the_table_are_called() -> None:
    table = {"m.f": Global("m.f", lambda *numbers: sum(numbers)), "m.c": Global("m.c")}
    assert read(encode_pickle(encode_call("m.f", encode_int(2), encode_int(3))), table) == 5
    with pytest.raises(RefusedGlobalError, match=r"^m\.c$"):
        read(encode_pickle(encode_call("m.c")), table)
    with pytest.raises(RefusedGlobalError, match=r"^int$"):
        read(encode_pickle(encode_int(1) + b")R"), table)


def test_unknown_globals_are_listed() -> None:
    calls = b"".join(encode_global(f"os.f{number}\x1b" if number else "os.system") for number in range(12))
    with pytest.raises(RefusedGlobalError) as caught:
        read(encode_pickle(calls), {"os.f2\x1b": Global("known")})
    assert set(caught.value.names) == {"os.system", *(f"os.f{number}\x1b" for number in (1, *range(3, 12)))}


def test_names_of_protocol_4_are_listed() -> None:
    """Module and name are strings, the second time from the memo."""
    content = pickle.dumps([print, sum, print, {1}, set], 4)
    assert list_globals(content) == ["builtins.print", "builtins.sum", "builtins.set"]
    with pytest.raises(RefusedGlobalError, match=r"^builtins\.print, builtins\.set, builtins\.sum$"):
        read(content)


def test_size_of_a_pickle_in_a_stream() -> None:
    content = pickle.dumps({"a": 1}, 2)
    reader = PickleReader(content + b"rest", {}, load_external=abs, count_items=abs)
    assert reader.read() == {"a": 1}
    assert reader.size == len(content)


def test_arguments_of_calls_are_counted() -> None:
    """A list that occurs once in the file may be copied by every call."""
    counts: list[int] = []
    shared = b"]q\x00(" + encode_int(1) * 50 + b"e"
    table = {"m.f": Global("m.f", lambda *_: None)}
    body = encode_tuple(shared, *[encode_call("m.f", b"h\x00", encode_text("ab"))] * 3)
    read(encode_pickle(body), table, counts.append)
    assert counts == [52] * 3


@pytest.mark.parametrize(
    ("body", "message"),
    [
        pytest.param(b"})K\x01s", "tuple as a key", id="tuple as key"),
        pytest.param(b"}G" + bytes(8) + b"K\x01s", "float as a key", id="float as key"),
        pytest.param(b"}" + encode_int(2**64) + b"K\x01s", "int as a key", id="large key"),
        pytest.param(encode_int(2**600), "an integer of 601 bits", id="large integer"),
        pytest.param(b")K\x01a", "items for a tuple", id="append to a tuple"),
        pytest.param(b"]}b", "a state for a list", id="state of a list"),
        pytest.param(b"\x97", "unexpected opcode NEXT_BUFFER", id="data outside the pickle"),
        pytest.param(b"(((t\x91", "tuple as a key", id="tuple in a set"),
        pytest.param(b"](K\x01\x90", "items of a set for a list", id="items for a list"),
        pytest.param(b"K\x01K\x02\x93", "the name of a global is not a string", id="number as a name"),
        pytest.param(b"K\x01)}K\x01K\x02s\x92", "keyword arguments", id="keyword arguments"),
        pytest.param(b"i__main__\nx\n", "unexpected opcode INST", id="old protocol"),
    ],
)
def test_what_torch_does_not_write(body: bytes, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        read(encode_pickle(body))


@pytest.mark.parametrize("body", [b"h\x05", b"t", b"a", b"(0e", b"", b"K"])
def test_damaged_pickles_raise(body: bytes) -> None:
    with pytest.raises((ValueError, TypeError, LookupError)):
        read(encode_pickle(body))


def test_state_of_objects() -> None:
    class Noted(PickledObject):
        def set_state(self, state: Any) -> None:
            self.state = state

    table = {"m.C": Global("m.C", lambda *_: Noted())}
    assert read(encode_pickle(encode_call("m.C") + b"}b"), table).state == {}
    assert read(encode_pickle(encode_global("m.C") + b")\x81}b"), table).state == {}  # NEWOBJ
    with pytest.raises(TypeError, match="PickledObject has no state"):
        read(encode_pickle(encode_call("m.P") + b"}b"), {"m.P": Global("m.P", lambda: PickledObject())})

"""Reader of pickles that builds plain containers and calls only the functions of a table.

`pickletools` splits a pickle into opcodes; those that `torch.save` writes, in protocols 2 to 5, are carried out here.
Names of classes and functions are looked up in the table, never imported. The work is linear in the length of the
pickle: keys of mappings have types whose hashes cannot be made to collide, and the lengths of the arguments of calls
are counted, because a call of three bytes can copy a large value that the file has once.
"""

from __future__ import annotations

import pickletools
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

RENAMED_MODULES = {"__builtin__": "builtins"}  # protocol 2 has the names of Python 2
RENAMED = {"builtins.xrange": "builtins.range", "builtins.long": "builtins.int", "builtins.unicode": "builtins.str"}
MAX_BITS = 512  # of an integer
SIZED_TYPES = (str, bytes, list, tuple, dict, set, range)
STRINGS = ("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8")


class RefusedGlobalError(Exception):
    """The pickle refers to classes or functions that no checkpoint needs.

    Attributes:
        names: their addresses.
    """

    def __init__(self, *names: str) -> None:
        super().__init__(", ".join(names))
        self.names = names


@dataclass(frozen=True, eq=False)
class Global:
    """A class or function that a pickle refers to; `call` is what is called in its place, None to refuse the call."""

    name: str
    call: Callable[..., Any] | None = None


class PickledObject:
    """An object whose state follows in the pickle."""

    def set_state(self, state: Any) -> None:
        """Receive the state."""
        raise TypeError(f"{type(self).__name__} has no state")


class PickleReader:
    """Reads one pickle.

    Args:
        content: the pickle, with which it starts.
        globals_by_name: the allowed names, each with its `Global` or constant.
        load_external: returns the value of a persistent id, which refers to data outside the pickle.
        count_items: called before each call with the number of items and characters in its arguments; may raise.

    Attributes:
        size: bytes of the pickle, once it is read.
    """

    def __init__(
        self,
        content: bytes,
        globals_by_name: Mapping[str, Any],
        *,
        load_external: Callable[[Any], Any],
        count_items: Callable[[int], None],
    ) -> None:
        self._content = content
        self._globals = globals_by_name
        self._load_external = load_external
        self._count_items = count_items
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        self.size = 0

    def read(self) -> Any:
        """The value of the pickle.

        Raises:
            RefusedGlobalError: it refers to a global that is not in the table; all such names are listed.
            Exception: any other, if the pickle is damaged.
        """
        for opcode, argument, position in pickletools.genops(self._content):
            action = ACTIONS.get(opcode.name)
            if action is None:
                raise ValueError(f"unexpected opcode {opcode.name}")
            action(self, argument)
            self.size = (position or 0) + 1
        return self._stack.pop()

    # -- opcodes ---------------------------------------------------------------------------------------------------

    def _skip(self, argument: Any) -> None:
        """Opcodes that change nothing here."""

    def _push(self, argument: Any) -> None:
        self._stack.append(argument)

    def _push_integer(self, argument: int) -> None:
        if argument.bit_length() > MAX_BITS:
            raise ValueError(f"an integer of {argument.bit_length()} bits")
        self._stack.append(argument)

    def _push_global(self, argument: str) -> None:
        name = _format_global(argument)
        if name not in self._globals:
            raise RefusedGlobalError(*sorted({name, *list_globals(self._content)} - self._globals.keys()))
        self._stack.append(self._globals[name])

    def _push_stack_global(self, argument: None) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise TypeError("the name of a global is not a string")
        self._push_global(f"{module} {name}")

    def _push_external(self, argument: None) -> None:
        self._stack.append(self._load_external(self._stack.pop()))

    def _pop(self, argument: None) -> None:
        if self._marks and self._marks[-1] == len(self._stack):
            self._marks.pop()
        else:
            self._stack.pop()

    def _mark(self, argument: None) -> None:
        self._marks.append(len(self._stack))

    def _pop_to_mark(self, argument: None = None) -> list[Any]:
        start = self._marks.pop()
        items = self._stack[start:]
        del self._stack[start:]
        return items

    def _store(self, argument: int) -> None:
        self._memo[argument] = self._stack[-1]

    def _memoize(self, argument: None) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    def _recall(self, argument: int) -> None:
        self._stack.append(self._memo[argument])

    def _tuple(self, argument: None) -> None:
        self._stack.append(tuple(self._pop_to_mark()))

    def _append(self, argument: None) -> None:
        self._extend([self._stack.pop()])

    def _appends(self, argument: None) -> None:
        self._extend(self._pop_to_mark())

    def _extend(self, items: list[Any]) -> None:
        if not isinstance(self._stack[-1], list):
            raise TypeError(f"items for a {type(self._stack[-1]).__name__}")
        self._stack[-1].extend(items)

    def _push_set(self, argument: None) -> None:
        self._stack.append({check_key(item) for item in self._pop_to_mark()})

    def _add_items(self, argument: None) -> None:
        items = self._pop_to_mark()
        if not isinstance(self._stack[-1], set):
            raise TypeError(f"items of a set for a {type(self._stack[-1]).__name__}")
        self._stack[-1].update(check_key(item) for item in items)

    def _set_item(self, argument: None) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._update([(key, value)])

    def _set_items(self, argument: None) -> None:
        items = self._pop_to_mark()
        self._update(zip(items[::2], items[1::2], strict=True))

    def _update(self, pairs: Iterable[tuple[Any, Any]]) -> None:
        if not isinstance(self._stack[-1], dict):
            raise TypeError(f"keys for a {type(self._stack[-1]).__name__}")
        self._stack[-1].update((check_key(key), value) for key, value in pairs)

    def _call(self, argument: None) -> None:
        arguments, function = self._stack.pop(), self._stack.pop()
        if not isinstance(function, Global) or function.call is None:
            raise RefusedGlobalError(getattr(function, "name", type(function).__name__))
        if not isinstance(arguments, tuple):
            raise TypeError(f"arguments in a {type(arguments).__name__}")
        self._count_items(sum(len(a) for a in arguments if isinstance(a, SIZED_TYPES)))
        self._stack.append(function.call(*arguments))

    def _call_with_keywords(self, argument: None) -> None:
        if self._stack.pop() != {}:
            raise ValueError("keyword arguments")
        self._call(None)

    def _build(self, argument: None) -> None:
        state, target = self._stack.pop(), self._stack[-1]
        if isinstance(target, PickledObject):
            target.set_state(state)
        elif not isinstance(target, dict):  # the attributes of an OrderedDict are dropped
            raise TypeError(f"a state for a {type(target).__name__}")


def check_key(key: Any) -> Any:
    """The key of a mapping, or item of a set, if its hash cannot be chosen at will; ValueError otherwise."""
    if key is None or isinstance(key, str) or (isinstance(key, int) and -(2**63) <= key < 2**63):
        return key
    raise ValueError(f"{type(key).__name__} as a key")


def list_globals(content: bytes) -> list[str]:
    """Addresses of all classes and functions that a pickle refers to, in order, with repetitions; nothing is run."""
    names: list[str] = []
    memo: list[str] = []
    recent = deque(["", ""], maxlen=2)
    for opcode, argument, _ in pickletools.genops(content):
        if opcode.name == "GLOBAL":
            names.append(_format_global(str(argument)))
        elif opcode.name == "STACK_GLOBAL":  # the two strings before it, perhaps from the memo
            names.append(_format_global(" ".join(recent)))
        elif opcode.name == "MEMOIZE":
            memo.append(recent[-1])
        elif opcode.name in STRINGS:
            recent.append(str(argument))
        elif opcode.name in ("BINGET", "LONG_BINGET"):
            recent.append(memo[argument] if isinstance(argument, int) and argument < len(memo) else "")
    return names


def _format_global(argument: str) -> str:
    """Address of a global, from its module and name separated by a space."""
    module, _, name = argument.partition(" ")
    address = f"{RENAMED_MODULES.get(module, module)}.{name}"
    return RENAMED.get(address, address)


ACTIONS: dict[str, Callable[[PickleReader, Any], Any]] = {
    **dict.fromkeys(("PROTO", "FRAME"), PickleReader._skip),
    "STOP": PickleReader._skip,
    "NONE": PickleReader._push,
    "NEWTRUE": lambda reader, _: reader._push(True),
    "NEWFALSE": lambda reader, _: reader._push(False),
    "EMPTY_DICT": lambda reader, _: reader._push({}),
    "EMPTY_LIST": lambda reader, _: reader._push([]),
    "EMPTY_TUPLE": lambda reader, _: reader._push(()),
    **dict.fromkeys(("BININT", "BININT1", "BININT2", "BINFLOAT"), PickleReader._push),
    "EMPTY_SET": lambda reader, _: reader._push(set()),
    **dict.fromkeys((*STRINGS, "SHORT_BINBYTES", "BINBYTES", "BINBYTES8"), PickleReader._push),
    "BYTEARRAY8": lambda reader, content: reader._push(bytes(content)),
    **dict.fromkeys(("LONG1", "LONG4"), PickleReader._push_integer),
    "GLOBAL": PickleReader._push_global,
    "STACK_GLOBAL": PickleReader._push_stack_global,
    "BINPERSID": PickleReader._push_external,
    "MARK": PickleReader._mark,
    "POP": PickleReader._pop,
    "POP_MARK": PickleReader._pop_to_mark,
    **dict.fromkeys(("BINPUT", "LONG_BINPUT"), PickleReader._store),
    "MEMOIZE": PickleReader._memoize,
    **dict.fromkeys(("BINGET", "LONG_BINGET"), PickleReader._recall),
    "TUPLE": PickleReader._tuple,
    "TUPLE1": lambda reader, _: reader._push((reader._stack.pop(),)),
    "TUPLE2": lambda reader, _: reader._push((reader._stack.pop(-2), reader._stack.pop())),
    "TUPLE3": lambda reader, _: reader._push((reader._stack.pop(-3), reader._stack.pop(-2), reader._stack.pop())),
    "APPEND": PickleReader._append,
    "APPENDS": PickleReader._appends,
    "SETITEM": PickleReader._set_item,
    "SETITEMS": PickleReader._set_items,
    "FROZENSET": PickleReader._push_set,
    "ADDITEMS": PickleReader._add_items,
    "REDUCE": PickleReader._call,
    "NEWOBJ": PickleReader._call,
    "NEWOBJ_EX": PickleReader._call_with_keywords,
    "BUILD": PickleReader._build,
}

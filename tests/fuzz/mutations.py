"""Random changes to valid files: of bytes, of words and numbers in text, of values in a tree."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Rng = np.random.Generator
TOKEN = re.compile(r"[A-Za-z_][\w.]*|-?\d[\w.+-]*|\s+|.", re.DOTALL)
ODD_NUMBERS = (
    *("0", "-1", "1e9", "1e308", "1e400", "-1e-400", "nan", "inf", "-inf", "0x7f", "1_000", "2147483648", "１", "٣"),
    *("9" * 400, "9" * 5000, "00", "1.0.0", "-", "1e", "true"),
)
ODD_WORDS = (
    *(
        "",
        "None",
        "null",
        "~",
        "__import__('os').system('true')",
        "../../../etc/passwd",
        "/",
        "a" * 5000,
        "\0",
        "\ufffd",
    ),
    *("é", "\u202e", "\x1b[2J", "!!python/object/apply:os.system [true]", "2024-13-01", "%s%n", "{x}", "C:\\x", "NUL"),
)
ODD_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 10**400, 1e9, 1e308, -0.0, float("nan"), float("inf"), 0.5),
    *("", "x", "a" * 5000, "\0", "../../x", "1e9", [], {}, [None], [[]], {"": None}, {"x": {}}, [0] * 1000),
)
ODD_INTEGERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def choose(options: Sequence[Any], rng: Rng) -> Any:
    """One of the options."""
    return options[int(rng.integers(len(options)))]


def mutate_bytes(data: bytes, rng: Rng) -> bytes:
    """Change one to four places of a file."""
    for _ in range(int(rng.integers(1, 5))):
        data = choose(BYTE_MUTATIONS, rng)(data, rng)
    return data


def mutate_text(text: str, rng: Rng) -> bytes:
    """Replace words and numbers, drop, repeat and swap lines; now and then change bytes, too."""
    for _ in range(int(rng.integers(1, 4))):
        text = choose(TEXT_MUTATIONS, rng)(text, rng)
    data = text.encode("utf-8", "surrogatepass")
    return mutate_bytes(data, rng) if rng.random() < 0.1 else data


def mutate_value(value: Any, rng: Rng) -> Any:
    """A copy of a tree of dicts and lists with one to three changes."""
    holder = [copy.deepcopy(value)]
    for _ in range(int(rng.integers(1, 4))):
        _change_node(holder, rng)
    return holder[0]


def _change_node(holder: list[Any], rng: Rng) -> None:
    """Replace, remove or repeat an entry somewhere below `holder`."""
    node: Any = holder
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        key = choose(keys, rng)
        child = node[key]
        if not isinstance(child, dict | list) or not child or rng.random() < 0.25:
            break
        node = child
    action = rng.random()
    if action < 0.15 and node is not holder:
        del node[key]
    elif action < 0.25:
        node[key] = [child]
    elif action < 0.3 and isinstance(node, list):
        node.extend(copy.deepcopy(node[:100]))
    elif action < 0.4 and isinstance(node, dict):
        node[choose(("x", "", 0, -1, 10**9, 1.5, None), rng)] = copy.deepcopy(child)
    elif action < 0.5 and isinstance(child, int | float) and not isinstance(child, bool):
        node[key] = choose((-child, child * 10**9, f"{child}", -abs(child) - 1, [child]), rng)
    else:
        node[key] = copy.deepcopy(choose(ODD_VALUES, rng))


def _flip_bit(data: bytes, rng: Rng) -> bytes:
    i = int(rng.integers(len(data))) if data else 0
    return data[:i] + bytes([data[i] ^ 1 << int(rng.integers(8))]) + data[i + 1 :] if data else b"\0"


def _set_byte(data: bytes, rng: Rng) -> bytes:
    i = int(rng.integers(len(data) + 1))
    return data[:i] + bytes([int(rng.integers(256))]) + data[i + 1 :]


def _set_integer(data: bytes, rng: Rng) -> bytes:
    i, width = int(rng.integers(len(data) + 1)), choose((2, 4, 8), rng)
    number = choose(ODD_INTEGERS, rng) & (1 << 8 * width) - 1
    return data[:i] + number.to_bytes(width, choose(("little", "big"), rng)) + data[i + width :]


def _truncate(data: bytes, rng: Rng) -> bytes:
    return data[: int(rng.integers(len(data) + 1))]


def _remove_range(data: bytes, rng: Rng) -> bytes:
    i, j = sorted(int(i) for i in rng.integers(0, len(data) + 1, 2))
    return data[:i] + data[min(j, i + 64) :]


def _repeat_range(data: bytes, rng: Rng) -> bytes:
    i, j = sorted(int(i) for i in rng.integers(0, len(data) + 1, 2))
    return data[:j] + data[i : min(j, i + 256)] + data[j:]


def _insert_bytes(data: bytes, rng: Rng) -> bytes:
    i = int(rng.integers(len(data) + 1))
    return data[:i] + rng.bytes(int(rng.integers(1, 16))) + data[i:]


def _replace_token(text: str, rng: Rng) -> str:
    tokens = TOKEN.findall(text)
    places = [i for i, token in enumerate(tokens) if token[-1].isalnum()]
    if not places:
        return choose(ODD_WORDS, rng)
    i = choose(places, rng)
    tokens[i] = choose(ODD_NUMBERS if tokens[i][0] in "-0123456789" or rng.random() < 0.3 else ODD_WORDS, rng)
    return "".join(tokens)


def _change_lines(text: str, rng: Rng) -> str:
    lines = text.splitlines(keepends=True) or [""]
    i, j = (int(i) for i in rng.integers(0, len(lines), 2))
    action = rng.random()
    if action < 0.4:
        del lines[i]
    elif action < 0.7:
        lines.insert(j, lines[i])
    else:
        lines[i], lines[j] = lines[j], lines[i]
    return "".join(lines)


def _insert_word(text: str, rng: Rng) -> str:
    i = int(rng.integers(len(text) + 1))
    return text[:i] + choose((*ODD_WORDS, *"[]{}:,-#&*|>'\"\t\n\r <"), rng) + text[i:]


def _truncate_text(text: str, rng: Rng) -> str:
    return text[: int(rng.integers(len(text) + 1))]


BYTE_MUTATIONS: tuple[Callable[[bytes, Rng], bytes], ...] = (
    *(_flip_bit, _flip_bit, _set_byte, _set_byte, _set_integer, _set_integer),
    *(_truncate, _remove_range, _repeat_range, _insert_bytes),
)
TEXT_MUTATIONS: tuple[Callable[[str, Rng], str], ...] = (
    *(_replace_token, _replace_token, _replace_token, _change_lines, _insert_word, _truncate_text),
)

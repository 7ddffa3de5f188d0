"""Bounded reading of YAML files: plain values, an error with file and line for anything else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from utils.core.errors import InputError
from utils.core.files import read_text
from utils.core.limits import are_limits_on

MAX_BYTES, MAX_NODES, MAX_DEPTH = 16 * 2**20, 1_000_000, 64
INT_TAG, MAX_DIGITS = "tag:yaml.org,2002:int", 100  # longer ones, also 0xF..., 1:1:..., cannot be shown or take hours


def read_yaml(path: str | Path) -> Any:
    """Content of a YAML file; None if it is empty.

    Raises:
        InputError: no readable file, not UTF-8, not YAML, an invalid value, or over a limit.
    """
    return parse_yaml(read_text(path, max_bytes=MAX_BYTES), path)


def parse_yaml(text: str, place: object) -> Any:
    """Content of a YAML text.

    Args:
        place: file, for messages.

    Raises:
        InputError: as for `read_yaml`.
    """
    try:
        return yaml.load(text, Loader=_BoundedLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        raise InputError(f"{place}{line}: not valid YAML: {error.problem}; correct the file") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise InputError(f"{place}: not valid YAML: {' '.join(str(error).split())}; correct the file") from error


class _BoundedLoader(yaml.SafeLoader):
    """SafeLoader with limits on nesting and on the number of values, with the values of aliases counted each time.

    An invalid value, such as the date 2024-13-01, is an error with its line.
    """

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = 0
        self._sizes: dict[int, int] = {}  # values in a node, by its id; the tree keeps the nodes alive

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        mark, is_alias = self.peek_event().start_mark, self.check_event(yaml.AliasEvent)
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise yaml.composer.ComposerError(None, None, f"nested more than {MAX_DEPTH} levels deep", mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if is_alias and id(node) not in self._sizes:
            raise yaml.composer.ComposerError(None, None, "an alias refers to the value that it is in", mark)
        if not is_alias and node is not None:
            self._sizes[id(node)] = 1 + sum(self._sizes[id(child)] for child in _list_children(node))
        if node is not None and self._sizes[id(node)] > MAX_NODES and are_limits_on():
            raise yaml.composer.ComposerError(None, None, f"more than {MAX_NODES:,} values", mark)
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            if node.tag == INT_TAG and len(node.value) > MAX_DIGITS:
                raise ValueError("too many digits")
            return super().construct_object(node, deep)
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            kind = node.tag.rpartition(":")[2]
            shown = f"{node.value[:40]!r}" if isinstance(node.value, str) else f"this {node.id}"  # type: ignore[attr-defined]
            raise yaml.constructor.ConstructorError(
                None, None, f"{shown} is not a valid {kind}", node.start_mark
            ) from error


def _list_children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [child for pair in node.value for child in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []

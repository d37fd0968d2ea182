"""YAML as settings need it: plain values, each key once, nothing that takes long or grows when it is read."""

from collections.abc import Hashable
from typing import Any

import yaml

DEEPEST = 40  # levels
MOST_VALUES = 20_000  # with all aliases written out
LONGEST_TEXT = 2_000  # characters
MERGE = "tag:yaml.org,2002:merge"


class PlainLoader(yaml.SafeLoader):
    """Refuses keys that stand twice, and nesting without end."""

    def __init__(self, stream: str, name: str) -> None:
        super().__init__(stream)
        self.name = name  # what errors call it
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self._depth += 1
        if self._depth > DEEPEST:
            raise yaml.composer.ComposerError(
                None, None, f"nested more than {DEEPEST} deep", self.peek_event().start_mark
            )
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key_node, _ in node.value:
            if key_node.tag == MERGE or not isinstance(key_node, yaml.ScalarNode):
                continue
            if key_node.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key_node.value} stands twice", key_node.start_mark
                )
            seen.add(key_node.value)
        return super().construct_mapping(node, deep=deep)


def read_plain(text: str, name: str = "what is typed") -> Any:
    """The one document in a text; name: of its file. Raises ValueError with one line that says what is wrong, and
    where."""
    try:
        loader = PlainLoader(text, name)
    except yaml.YAMLError as error:  # a character that YAML does not have
        raise ValueError(f"is not YAML: {' '.join(str(error).split())}".replace("<unicode string>", name)) from None
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        if _written_out(node, {}) > MOST_VALUES:
            raise ValueError(f"has more than {MOST_VALUES:,} values when its aliases are written out")
        return loader.construct_document(node)
    except yaml.YAMLError as error:
        raise ValueError(f"is not YAML: {' '.join(str(error).split())}") from None
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError, AttributeError) as error:
        said = str(error) if str(error).startswith("has ") else f"has a value that cannot be read: {str(error)[:200]}"
        raise ValueError(" ".join(said.split())) from None
    finally:
        loader.dispose()


def _written_out(node: yaml.Node, known: dict[int, int]) -> int:
    """Values of a tree when each alias is written out. Raises ValueError for one that holds itself."""
    if id(node) in known:
        if known[id(node)] < 0:
            raise ValueError("has a list or mapping that holds itself")
        return known[id(node)]
    known[id(node)] = -1
    inner: list[yaml.Node] = []
    if isinstance(node, yaml.SequenceNode):
        inner = node.value
    elif isinstance(node, yaml.MappingNode):
        inner = [each for pair in node.value for each in pair]
    known[id(node)] = 1 + sum(_written_out(each, known) for each in inner)
    return known[id(node)]


def odd_text(value: Any) -> str:
    """What is wrong with a text, or with one inside a list or mapping; empty when nothing is."""
    if isinstance(value, list | tuple | set):
        return next((found for each in value if (found := odd_text(each))), "")
    if isinstance(value, dict):
        return odd_text([*value.keys(), *value.values()])
    if isinstance(value, bytes):
        return "bytes; expected text"
    if not isinstance(value, str):
        return ""
    if len(value) > LONGEST_TEXT:
        return f"a text of {len(value):,} characters; expected at most {LONGEST_TEXT:,}"
    if "\0" in value or any("\ud800" <= each <= "\udfff" for each in value):
        return "a NUL or half a character, which no file can be named with"
    return ""

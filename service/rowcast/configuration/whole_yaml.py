"""All of YAML, parsed by ruamel.yaml: for documents that ``common_yaml`` declines, and for every message about an error."""

from __future__ import annotations

from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.composer import MaxDepthExceededError
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.nodes import MappingNode, ScalarNode
from ruamel.yaml.nodes import Node as ParsedNode
from ruamel.yaml.reader import ReaderError
from ruamel.yaml.resolver import VersionedResolver
from ruamel.yaml.tag import Tag

from rowcast.configuration.yaml_nodes import MAX_DEPTH, Node, Unreadable


class _Resolver(VersionedResolver):
    """Marks nodes without a tag, to distinguish written tags."""

    def resolve(self, kind: Any, value: Any, implicit: Any) -> Any:
        return Tag(suffix="plain" if kind is ScalarNode and implicit[0] else "untagged")


def compose(text: str) -> Node | None:
    """The root of a document; ``None`` if it is empty, and ``Unreadable`` if it is not YAML."""
    yaml = YAML(typ="base", pure=True)
    yaml.Resolver = _Resolver
    yaml.max_depth = MAX_DEPTH
    yaml.composer.warn_double_anchors = False
    try:
        node: ParsedNode | None = yaml.compose(text)
    except MaxDepthExceededError as error:
        raise Unreadable(*_mark(error), "cannot be read: nested too deeply") from None
    except MarkedYAMLError as error:
        raise Unreadable(*_mark(error), f"cannot be read: {error.problem or error.context}") from None
    except ReaderError as error:
        before = text[: error.position]
        column = len(before) - before.rfind("\n")
        raise Unreadable(
            before.count("\n") + 1, column, f"cannot be read: the character U+{ord(text[error.position]):04X}"
        ) from None
    except (ValueError, OverflowError):  # of chr(), for an escape such as "\\UFFFFFFFF"
        at = yaml.reader
        raise Unreadable(at.line + 1, at.column + 1, "cannot be read: no such character") from None
    return None if node is None else _node(node, {})


def _node(parsed: ParsedNode, made: dict[int, Node]) -> Node:
    """A node as ours. An alias is the node that it stands for, which may contain it."""
    if (node := made.get(id(parsed))) is not None:
        return node
    start, tag = parsed.start_mark, str(parsed.tag)
    node = made[id(parsed)] = Node(
        "scalar" if isinstance(parsed, ScalarNode) else "mapping" if isinstance(parsed, MappingNode) else "list",
        start.line + 1,
        start.column + 1,
        tag=tag if tag.startswith(("!", "tag:")) else "",
    )
    if node.kind == "scalar":
        node.value, node.plain, node.empty = parsed.value, tag == "plain", start.index == parsed.end_mark.index
    elif node.kind == "mapping":
        node.value.extend((_node(key, made), _node(value, made)) for key, value in parsed.value)
    else:
        node.value.extend(_node(item, made) for item in parsed.value)
    return node


def _mark(error: MarkedYAMLError) -> tuple[int, int]:
    """The line and column, from 1, of an error of ruamel.yaml."""
    mark = error.problem_mark or error.context_mark
    return (mark.line + 1, mark.column + 1) if mark is not None else (1, 1)

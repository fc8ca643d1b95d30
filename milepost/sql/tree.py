"""Nodes of a tree, outer ones first.

sqlglot's own `find_all` gives the same in the same order; planning a query asks for nodes some hundred times, and two
generators for every node are most of what that costs.
"""

from __future__ import annotations

from typing import TypeVar

from sqlglot import exp

Node = TypeVar("Node", bound=exp.Expr)


def every(tree: exp.Expr, *kinds: type[Node]) -> list[Node]:
    """The tree's nodes of these kinds, itself among them; what becomes of the tree later does not change the list."""
    found: list[Node] = []
    nodes = [tree]
    for node in nodes:  # it grows while it is read
        if isinstance(node, kinds):
            found.append(node)
        for value in node.args.values():
            if isinstance(value, exp.Expr):
                nodes.append(value)
            elif isinstance(value, list):
                nodes += [one for one in value if isinstance(one, exp.Expr)]
    return found


def first(tree: exp.Expr, *kinds: type[Node]) -> Node | None:
    """The outermost node of these kinds."""
    found = every(tree, *kinds)
    return found[0] if found else None

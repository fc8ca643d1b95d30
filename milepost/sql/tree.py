"""Nodes of a tree, outer ones first, and what a name in it stands for.

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


def cte_of(table: exp.Table) -> exp.CTE | None:
    """The CTE that the name stands for, if it does, seen from outside that CTE."""
    above: exp.Expr | None = None if table.db else table
    while above:
        with_ = above.args.get("with_")
        for cte in with_.expressions if with_ else ():
            if names_cte(table, cte) and not is_in(table, cte):
                return cte  # type: ignore[no-any-return]
        above = above.parent
    return None


def cte_around(table: exp.Table) -> exp.CTE | None:
    """The CTE that the name stands for, if the table is in its own recursion."""
    above: exp.Expr | None = table
    while above:
        if isinstance(above, exp.CTE) and names_cte(table, above):
            return above
        above = above.parent
    return None


def names_cte(table: exp.Table, cte: exp.CTE) -> bool:
    """Whether the name, wherever it stands, is the CTE's."""
    return not table.db and table.name.lower() == cte.alias.lower()


def is_in(node: exp.Expr, tree: exp.Expr) -> bool:
    """Whether the node is the tree or a part of it."""
    above: exp.Expr | None = node
    while above is not None and above is not tree:
        above = above.parent
    return above is tree

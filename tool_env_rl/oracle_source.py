"""One tool's source, parsed and never run: what its local names derive from, its tables, look-ups in them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Any

from tool_env_rl.oracle_values import unique


class ParsedTool:
    """Parameters of one tool, what local names derive from, literal tables, and look-ups in them.

    Raises:
        SyntaxError, ValueError: no Python, or no function of that name.
    """

    def __init__(self, code: str, name: str) -> None:
        try:
            self.tree = ast.parse(code)
        except RecursionError as error:
            raise ValueError(f"the code of {name} is nested too deeply to be read") from error
        functions = [n for n in ast.walk(self.tree) if isinstance(n, ast.FunctionDef) and n.name == name]
        if not functions:
            raise ValueError(f"the code defines no function {name!r}; name it as its document does")
        self.function = functions[0]
        arguments = self.function.args
        positional = [*arguments.posonlyargs, *arguments.args]
        self.params = [a.arg for a in (*positional, *arguments.kwonlyargs)]
        optional = positional[len(positional) - len(arguments.defaults) :]
        optional += [
            a for a, d in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True) if d is not None
        ]
        self.required = [p for p in self.params if p not in {a.arg for a in optional}]
        self.parents = {child: node for node in ast.walk(self.tree) for child in ast.iter_child_nodes(node)}
        self.from_params: dict[str, set[str]] = {p: {p} for p in self.params}
        self.from_tables: dict[str, list[Any]] = {}
        self._derive()

    def _derive(self) -> None:
        for _ in range(4):  # chains of local names are short
            for target, value in bindings_of(self.tree):
                params, tables = self.params_in(value), self.tables_in(value)
                for name in (n.id for n in ast.walk(target) if isinstance(n, ast.Name)):
                    if params and not (isinstance(value, ast.Dict | ast.List) and len(params) > 1):
                        self.from_params.setdefault(name, set()).update(params)
                    if tables and len(self.from_tables.setdefault(name, [])) < 4:
                        known = self.from_tables[name]
                        known.extend(t for t in tables if not any(t is k for k in known))

    def params_in(self, node: ast.AST) -> set[str]:
        names = (n.id for n in ast.walk(node) if isinstance(n, ast.Name))
        return {param for name in names for param in self.from_params.get(name, ())}

    def tables_in(self, node: ast.AST) -> list[ast.AST]:
        """Literal lists, sets, tuples and dicts in an expression or behind its names."""
        found: list[ast.AST] = []
        for child in ast.walk(node):
            if isinstance(child, ast.Name):
                found.extend(self.from_tables.get(child.id, []))
            elif isinstance(child, ast.Dict | ast.List | ast.Set | ast.Tuple) and constants_of(child):
                found.append(child)
        return found

    def lookups(self) -> Iterator[tuple[ast.expr, ast.expr]]:
        """(key, container) of every subscript, .get and `in` whose key derives from a parameter."""
        for node in ast.walk(self.function):
            key = container = None
            if isinstance(node, ast.Subscript):
                key, container = node.slice, node.value
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args:
                if node.func.attr in ("get", "index", "pop", "setdefault"):
                    key, container = node.args[0], node.func.value
            elif isinstance(node, ast.Compare) and len(node.ops) == 1:
                left, right = node.left, node.comparators[0]
                if self.params_in(left):
                    key, container = left, right
                elif self.params_in(right):
                    key, container = right, left
            if key is not None and container is not None and self.params_in(key):
                yield key, container


def bindings_of(tree: ast.AST) -> Iterator[tuple[ast.AST, ast.expr]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            yield from ((target, node.value) for target in node.targets)
        elif isinstance(node, ast.AnnAssign | ast.AugAssign | ast.NamedExpr) and node.value is not None:
            yield node.target, node.value
        elif isinstance(node, ast.For | ast.comprehension):
            yield node.target, node.iter


def literal_of(node: ast.AST | None) -> Any:
    """The constant an expression spells out, or None."""
    try:
        return None if node is None else ast.literal_eval(node)  # type: ignore[arg-type]
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None


def constants_of(node: ast.AST) -> list[Any]:
    return unique(
        n.value
        for n in ast.walk(node)
        if isinstance(n, ast.Constant)
        and isinstance(n.value, str | int | float)
        and not isinstance(n.value, bool)
    )


def keys_of(table: Any) -> list[Any]:
    """Keys at all levels of a dict, or members of another literal."""
    if isinstance(table, ast.Dict):
        nested = [
            key for value in table.values for key in (keys_of(value) if isinstance(value, ast.Dict) else [])
        ]
        return [key for key in map(literal_of, table.keys) if key is not None] + nested
    if isinstance(table, ast.List | ast.Set | ast.Tuple):
        members = [literal_of(element) for element in table.elts]
        return [m for m in members if m is not None and not isinstance(m, dict)] or constants_of(table)
    return []

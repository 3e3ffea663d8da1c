"""What arguments might make a tool reveal a sub-answer? Read off its source, never run here.

A *lead* is a partial assignment of parameters. Around each place of the source that holds the sub-answer, the
conditions on the way there (enclosing branches taken, earlier early exits not taken) and the keys of the
table it stands in are turned round: `city.lower() == "lyon"` gives city="lyon", `facts.get(query)` a key.
Parameters that no condition names are filled from schema, signature, question and the other sub-answers.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from typing import Any

from tool_env_rl.oracle_source import ParsedTool, bindings_of, constants_of, keys_of, literal_of
from tool_env_rl.oracle_values import FORMATS, Guess, Has, Lead, unique
from tool_env_rl.protocol import answer_matches

MAX_ALTERNATIVES = 24  # per condition and per combination of conditions
MAX_KEYS = 60  # of one table
_METHODS = {"lower", "upper", "strip", "title", "casefold", "capitalize", "replace", "rstrip", "lstrip"}


class Source(ParsedTool):
    """A parsed tool that is asked for leads; errors are those of `ParsedTool`."""

    def leads(self, gold: str) -> Iterator[Lead]:
        """Partial assignments that may reach the places holding `gold`, most direct places first."""
        for node in self._places(gold):
            conditions, keys = self._way_to(node)
            options = [self._solve(test, wanted) for test, wanted in conditions]
            options += self._key_options(node, keys)
            yield from _combine(options)

    def _places(self, gold: str) -> Sequence[ast.AST]:
        scored = []
        for node in ast.walk(self.function):
            if isinstance(node, ast.Constant) and not isinstance(node.value, bool | bytes | type(None)):
                text = str(node.value)
            elif isinstance(node, ast.JoinedStr):
                text = "".join(str(v.value) for v in node.values if isinstance(v, ast.Constant))
            else:
                continue
            if self._is_docstring(node):
                continue
            if answer_matches(text, gold, strict=True):
                scored.append((0, len(text), node))
            elif answer_matches(text, gold):
                scored.append((1, len(text), node))
            elif any(answer_matches(text, part, strict=True) for part in gold.replace(", ", " ").split()):
                scored.append((2, len(text), node))
        if not scored:  # computed: any return may hold it
            return [node for node in ast.walk(self.function) if isinstance(node, ast.Return)][::-1]
        return [node for _, _, node in sorted(scored, key=lambda item: item[:2])]

    def _is_docstring(self, node: ast.AST) -> bool:
        return isinstance(self.parents.get(node), ast.Expr)

    def _way_to(self, node: ast.AST) -> tuple[list[tuple[ast.expr, bool]], list[ast.expr]]:
        conditions: list[tuple[ast.expr, bool]] = []
        keys: list[ast.expr] = []
        child = node
        while child is not self.function and (parent := self.parents.get(child)) is not None:
            if isinstance(parent, ast.If | ast.IfExp) and child is not parent.test:
                body = parent.body if isinstance(parent.body, list) else [parent.body]
                conditions.append((parent.test, child in body))
            if isinstance(parent, ast.Dict) and child in parent.values:
                key = parent.keys[parent.values.index(child)]  # type: ignore[arg-type]
                keys += [key] if key is not None else []
            block = next((b for b in _blocks(parent) if child in b), [])
            for earlier in block[: block.index(child)] if block else []:
                if isinstance(earlier, ast.If) and _exits(earlier.body):
                    conditions.append((earlier.test, False))
            child = parent
        return conditions, keys[::-1]

    def _key_options(self, node: ast.AST, keys: Sequence[ast.expr]) -> list[list[Lead]]:
        """For the keys on the way into a table, the parameters that look them up."""
        table = node
        while isinstance(self.parents.get(table), ast.Dict | ast.List | ast.Tuple | ast.Set):
            table = self.parents[table]
        lookups = [
            key for key, container in self.lookups() if any(table is t for t in self.tables_in(container))
        ]
        options: list[list[Lead]] = []
        for key in keys:
            leads = [lead for lookup in lookups for lead in self._invert(lookup, literal_of(key))]
            options.append([*leads[:MAX_ALTERNATIVES], {}])
        child = node
        while (child := self.parents.get(child, table)) is not table:
            if isinstance(child, ast.Dict) and (every := self._record_lead(child, self.params)):
                if options:  # the last key is the field's name, which a parameter need not ask for
                    options[-1] = [{}, *options[-1][:-1]]
                options.append([self._record_lead(child, self.required), every, {}])
        return options

    def _record_lead(self, record: ast.Dict, params: Sequence[str]) -> Lead:
        """The fields of one record, each given to the parameter of its name, or compared with it."""
        fields = {literal_of(k): literal_of(v) for k, v in zip(record.keys, record.values, strict=True) if k}
        lead = {p: fields[p] for p in params if fields.get(p) is not None}
        for test in (n for n in ast.walk(self.function) if isinstance(n, ast.Compare) and len(n.ops) == 1):
            for one, other in ((test.left, test.comparators[0]), (test.comparators[0], test.left)):
                for part in ast.walk(other):
                    key = literal_of(part) if isinstance(part, ast.Constant) else None
                    if isinstance(key, str) and fields.get(key) is not None and not self.params_in(other):
                        for param in self.params_in(one) & set(params):
                            lead.setdefault(param, fields[key])
        return lead

    def _solve(self, test: ast.expr, wanted: bool) -> list[Lead]:
        """Leads under which `test` is likely `wanted`; [{}] where nothing is known."""
        if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
            return self._solve(test.operand, not wanted)
        if isinstance(test, ast.BoolOp):
            parts = [self._solve(value, wanted) for value in test.values]
            if isinstance(test.op, ast.And) is wanted:
                return list(_combine(parts))
            return [lead for part in parts for lead in part][:MAX_ALTERNATIVES]
        if isinstance(test, ast.Compare) and len(test.ops) > 1:
            pairs = zip([test.left, *test.comparators], test.ops, test.comparators, strict=False)
            return list(_combine([self._compare(a, op, b, wanted) for a, op, b in pairs]))
        if isinstance(test, ast.Compare):
            return self._compare(test.left, test.ops[0], test.comparators[0], wanted)
        if isinstance(test, ast.Call):
            return self._call_test(test, wanted)
        if isinstance(test, ast.Name) and test.id in self.params:
            return [{test.id: True}, {}] if wanted else [{}]
        return self._looked_up(test) if wanted else [{}]

    def _looked_up(self, test: ast.expr) -> list[Lead]:
        """`if found:` after `found = table.get(query)`: any key of the table."""
        names = {n.id for n in ast.walk(test) if isinstance(n, ast.Name)}
        for target, value in bindings_of(self.function):
            if isinstance(target, ast.Name) and target.id in names and self.params_in(value):
                tables = self.tables_in(value)
                keys = [key for table in tables for key in keys_of(table)][:MAX_KEYS]
                leads = [
                    lead for param in sorted(self.params_in(value)) for key in keys for lead in [{param: key}]
                ]
                return [{}, *leads[:MAX_ALTERNATIVES]]
        return [{}]

    def _call_test(self, test: ast.Call, wanted: bool) -> list[Lead]:
        name = test.func.attr if isinstance(test.func, ast.Attribute) else getattr(test.func, "id", "")
        if not wanted or not test.args:
            return [{}]
        if name in ("any", "all") and isinstance(test.args[0], ast.GeneratorExp | ast.ListComp):
            return self._solve(test.args[0].elt, True)
        if name in ("startswith", "endswith") and isinstance(test.func, ast.Attribute):
            words = [str(word) for word in constants_of(test.args[0])]
            dates = [f"{word}-01" for word in words if re.fullmatch(r"\d{4}-\d{2}", word)]  # a whole day
            dates += [f"{word}-01-01" for word in words if re.fullmatch(r"\d{4}", word)]
            texts = [*dates, *words]
            return [lead for w in texts for lead in self._invert(test.func.value, Has((w,)))] or [{}]
        if name in ("match", "fullmatch", "search") and len(test.args) > 1:
            return [lead for text in FORMATS for lead in self._invert(test.args[1], Guess(text))] or [{}]
        return [{}]

    def _compare(self, left: ast.expr, op: ast.cmpop, right: ast.expr, wanted: bool) -> list[Lead]:
        equal = isinstance(op, ast.Eq | ast.In) if wanted else isinstance(op, ast.NotEq | ast.NotIn)
        if isinstance(op, ast.Lt | ast.LtE | ast.Gt | ast.GtE):
            return self._order(left, op, right, wanted)
        if not equal:
            return [{}]
        leads: list[Lead] = []
        if isinstance(op, ast.In | ast.NotIn):
            if self.params_in(left):
                for value in self._values(right, keys=True):
                    leads += self._invert(left, value)
            if self.params_in(right) and not leads:
                for value in self._values(left, keys=True):
                    leads += self._invert(right, Has((str(value),)))
        else:
            for one, other in ((left, right), (right, left)):
                if self.params_in(one) and not self.params_in(other) - self.params_in(one):
                    for value in self._values(other, keys=False):
                        leads += self._invert(one, value)
        return leads[:MAX_ALTERNATIVES] or [{}]

    def _order(self, left: ast.expr, op: ast.cmpop, right: ast.expr, wanted: bool) -> list[Lead]:
        for one, other, above in ((left, right, (ast.Gt, ast.GtE)), (right, left, (ast.Lt, ast.LtE))):
            values = [
                v for v in constants_of(other) if isinstance(v, int | float) and not isinstance(v, bool)
            ]
            if self.params_in(one) and values:
                step = 1 if isinstance(op, above) is wanted else -1
                return [lead for v in (values[0] + step, values[0]) for lead in self._invert(one, v)] or [{}]
        return [{}]

    def _values(self, node: ast.expr, *, keys: bool) -> list[Any]:
        """Constants a node can stand for: itself, or members of the tables behind it."""
        literal = literal_of(node)
        if literal is not None and not (keys and isinstance(literal, list | tuple | set | dict)):
            return [literal]
        values: list[Any] = []
        for table in self.tables_in(node):
            values += keys_of(table) if keys else [*keys_of(table), *constants_of(table)]
        return unique(values)[:MAX_KEYS]

    def _invert(self, node: ast.expr, value: Any) -> list[Lead]:
        """Arguments that give the expression `node` this value."""
        if value is None:
            return []
        if isinstance(node, ast.Name):
            if node.id in self.params:
                return [{node.id: value}]
            sources = [
                v for t, v in bindings_of(self.function) if isinstance(t, ast.Name) and t.id == node.id
            ]
            sources = [
                v
                for v in sources
                if not any(isinstance(n, ast.Name) and n.id == node.id for n in ast.walk(v))
            ]
            return [lead for source in sources[:3] for lead in self._invert(source, value)] or [
                {param: value} for param in sorted(self.from_params.get(node.id, ()))
            ]
        if isinstance(node, ast.Tuple | ast.List) and isinstance(value, list | tuple):
            if len(node.elts) == len(value):
                parts = [self._invert(e, v) or [{}] for e, v in zip(node.elts, value, strict=True)]
                return list(_combine(parts))
            return []
        if isinstance(node, ast.JoinedStr) and isinstance(value, str):
            return self._invert_template(node, value)
        if isinstance(node, ast.Subscript):
            key = literal_of(node.slice)
            if isinstance(key, str):
                return self._invert(node.value, {key: value})
            return self._invert(node.value, value if isinstance(value, Has) else [value]) if key == 0 else []
        if isinstance(node, ast.Call):
            function = node.func
            if isinstance(function, ast.Attribute):
                if function.attr == "get" and node.args and isinstance(key := literal_of(node.args[0]), str):
                    return self._invert(function.value, {key: value})
                if function.attr in _METHODS:
                    return self._invert(function.value, value)
                if function.attr == "split" and isinstance(value, list):
                    return self._invert(function.value, " ".join(map(str, value)))
            name = getattr(function, "id", "")
            if name == "len" and isinstance(value, int):
                return self._invert(node.args[0], ["1"] * min(max(value, 0), 20)) if node.args else []
            if name in ("set", "sorted", "tuple", "list") and node.args:
                return self._invert(node.args[0], list(value) if isinstance(value, set | tuple) else value)
        return [{param: value} for param in sorted(self.params_in(node))]

    def _invert_template(self, node: ast.JoinedStr, value: str) -> list[Lead]:
        """f"{a}_{b}" against "x_y": a="x", b="y", split at the first occurrence of each separator."""
        leads: Lead = {}
        rest, holes = value, list(node.values)
        for index, part in enumerate(holes):
            if isinstance(part, ast.Constant):
                if not rest.startswith(str(part.value)):
                    return []
                rest = rest[len(str(part.value)) :]
            elif isinstance(part, ast.FormattedValue):
                after = holes[index + 1] if index + 1 < len(holes) else None
                text = rest.split(str(after.value), 1)[0] if isinstance(after, ast.Constant) else rest
                rest = rest[len(text) :]
                for lead in self._invert(part.value, text)[:1]:
                    leads |= lead
        return [leads]

    def literals_of(self, param: str) -> list[Any]:
        """All constants the source compares the parameter with, wherever and however."""
        found: list[Any] = []
        for key, container in self.lookups():
            if param in self.params_in(key):
                found += [
                    lead.get(param)
                    for v in self._values(container, keys=True)
                    for lead in self._invert(key, v)
                ]
        return unique(value for value in found if value is not None)[:MAX_KEYS]


def _combine(options: Sequence[Sequence[Lead]]) -> Iterator[Lead]:
    """Merged leads, one choice per option, without contradictions; at most MAX_ALTERNATIVES."""
    merged: list[Lead] = [{}]
    for choices in options:
        longer = [both for lead in merged for choice in choices if (both := _merge(lead, choice)) is not None]
        merged = (longer or merged)[:MAX_ALTERNATIVES]
    yield from merged


def _merge(first: Lead, second: Lead) -> Lead | None:
    merged = dict(first)
    for param, value in second.items():
        old = merged.get(param)
        if old is None or old is True or isinstance(old, Guess):  # True: "anything that counts as true"
            merged[param] = value
        elif isinstance(old, Has) and isinstance(value, Has):
            merged[param] = Has(tuple(dict.fromkeys((*old.words, *value.words))))
        elif isinstance(value, Guess):
            continue
        elif isinstance(old, dict) and isinstance(value, dict):
            merged[param] = {**old, **value}
        elif isinstance(value, Has) or value is True or (isinstance(old, Has) and isinstance(value, list)):
            continue
        elif isinstance(old, Has):
            merged[param] = value
        elif old != value:
            return None
    return merged


def _blocks(node: ast.AST) -> Iterator[list[ast.AST]]:
    for field in ("body", "orelse", "finalbody"):
        block = getattr(node, field, None)
        if isinstance(block, list):
            yield block


def _exits(block: Sequence[ast.stmt]) -> bool:
    return bool(block) and isinstance(block[-1], ast.Return | ast.Raise | ast.Continue)

"""First layer of the sandbox: an allow-list over the syntax tree of a tool's source.

    report = check(source, "city_lookup")
    report.passed, report.reasons          # False, ("line 3: import of 'os' is not allowed", ...)

The lists hold what the authors' 1,852 test functions use, less `eval` and `os`. The gate is a filter that
gives a tool's author reasons; the boundary is the process (`worker.py`), tested with this gate switched off.
"""

from __future__ import annotations

import ast
import builtins
import re
import symtable
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

MAX_SOURCE_BYTES = 20_000  # the longest function of the authors' test set has 4,275 characters
MAX_REASONS = 20

MODULES = frozenset((
    "calendar", "cmath", "collections", "collections.abc", "datetime", "dateutil", "dateutil.easter",
    "dateutil.parser", "dateutil.relativedelta", "dateutil.rrule", "dateutil.tz", "decimal", "fractions",
    "functools", "itertools", "json", "math", "operator", "pytz", "re", "statistics", "string", "typing",
))  # fmt: skip
BUILTINS = frozenset((
    "abs", "all", "any", "ascii", "bin", "bool", "bytearray", "bytes", "callable", "chr", "complex", "dict",
    "divmod", "enumerate", "filter", "float", "format", "frozenset", "hex", "int", "isinstance",
    "issubclass", "iter", "len", "list", "map", "max", "min", "next", "object", "oct", "ord", "pow",
    "print", "range", "repr", "reversed", "round", "set", "slice", "sorted", "str", "sum", "tuple", "type",
    "zip", "Ellipsis", "NotImplemented", "__name__",
))  # fmt: skip
EXCEPTIONS = frozenset(
    n for n, v in vars(builtins).items() if isinstance(v, type) and issubclass(v, Exception)
)
# Public names by which allowed modules lead elsewhere: to other modules, to attributes named by a string, to
# evaluated annotations, to files. test_static_gate.py walks the modules for names that are missing here.
ATTRIBUTES = frozenset((
    "sys", "os", "codecs", "contextlib", "copyreg", "decoder", "encoder", "enum", "heapq", "lazy",
    "numbers", "random", "scanner", "types", "tzfile", "utils", "warnings", "weakref", "zoneinfo",
    "attrgetter", "methodcaller", "Formatter", "get_field", "vformat", "update_wrapper", "wraps",
    "get_type_hints", "ForwardRef", "open_resource", "urandom", "SystemRandom",
))  # fmt: skip
_FRAMES = re.compile(r"(gi|cr|ag|tb|co|f)_")
_DUNDER = re.compile(r"__(?!main__|name__)\w+__")
_STATEMENTS: dict[type[ast.AST], str] = {
    ast.ClassDef: "class definitions",
    ast.Global: "global statements",
    ast.AsyncFunctionDef: "async functions",
}


@dataclass(frozen=True)
class GateReport:
    """Verdict on one source. `reasons`: one sentence each, at most 20, in line order; empty if it passed."""

    reasons: tuple[str, ...]

    @property
    def passed(self) -> bool:
        return not self.reasons


def check(source: str, name: str) -> GateReport:
    """Whether `source` may run as the tool `name`. Never raises on any text; runs nothing of it."""
    size = len(source.encode("utf-8", "surrogatepass"))
    if size > MAX_SOURCE_BYTES:
        return GateReport((f"the source has {size} bytes, more than {MAX_SOURCE_BYTES}",))
    try:
        with warnings.catch_warnings(action="ignore"):  # of invalid escapes, common in generated code
            tree = ast.parse(source)
            table = symtable.symtable(source, "<tool>", "exec")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return GateReport((f"the source does not parse: {error}"[:300],))
    found = [(node.lineno, reason) for node, reason in _violations(tree)]
    if not any(isinstance(node, ast.FunctionDef) and node.name == name for node in tree.body):
        found.append((1, f"the source defines no function '{name[:80]}' at its top level"))
    lines = {n.id: n.lineno for n in ast.walk(tree) if isinstance(n, ast.Name)}
    for used in _builtins_used(table) - BUILTINS - EXCEPTIONS:
        found.append((lines.get(used, 1), f"the builtin '{used}' is not allowed"))
    reasons = dict.fromkeys(f"line {line}: {reason}" for line, reason in sorted(found))
    return GateReport(tuple(reasons)[:MAX_REASONS])


def _violations(tree: ast.Module) -> Iterator[tuple[ast.expr | ast.stmt, str]]:
    for node in ast.walk(tree):
        if not isinstance(node, (ast.stmt, ast.expr)):
            if isinstance(node, ast.MatchClass):  # its keywords read attributes
                yield from ((node.cls, r) for key in node.kwd_attrs for r in _attribute(key))
            continue
        for reason in _reasons(node):
            yield node, reason


def _reasons(node: ast.stmt | ast.expr) -> Iterator[str]:
    match node:
        case ast.ClassDef() | ast.Global() | ast.AsyncFunctionDef():
            yield f"{_STATEMENTS[type(node)]} are not allowed"
        case ast.FunctionDef(decorator_list=[_, *_]):
            yield "decorators are not allowed"
        case ast.While(test=ast.Constant(value=value)) if value and not _leaves(node):
            yield "this loop has no end: no break, return or raise"
        case ast.Import(names=names):
            for alias in names:
                yield from _module(alias.name)
        case ast.ImportFrom(module=module, names=names, level=level):
            yield from _module("." * level + (module or ""))
            for alias in names:
                if alias.name == "*":
                    yield "import of * is not allowed: name what is used"
                elif f"{module}.{alias.name}" not in MODULES:
                    yield from _attribute(alias.name)
        case ast.Attribute(attr=attr):
            yield from _attribute(attr)
        case ast.Constant(value=str(text)) if _DUNDER.search(text):
            yield f"the text {_DUNDER.findall(text)[0]!r:.60} is not allowed: it names an internal attribute"
        case ast.Call(func=ast.Name(id="type"), args=args, keywords=keywords) if len(args) != 1 or keywords:
            yield "type() with other than one argument makes a class, which is not allowed"


def _module(name: str) -> Iterator[str]:
    if name not in MODULES:
        yield f"import of '{name}' is not allowed"


def _attribute(name: str) -> Iterator[str]:
    if name.startswith("_") or name in ATTRIBUTES or _FRAMES.match(name):
        yield f"the attribute '{name}' is not allowed"


def _leaves(loop: ast.While) -> bool:
    return any(isinstance(node, (ast.Break, ast.Return, ast.Raise)) for node in ast.walk(loop))


def _builtins_used(table: symtable.SymbolTable) -> set[str]:
    """Names of builtins, and dunders, that some scope reads as a global: a parameter of that name is none."""
    tables, names = [table], set[str]()
    for scope in tables:  # grows while it is read
        tables += scope.get_children()
        names |= {s.get_name() for s in scope.get_symbols() if s.is_global() or scope is table}
    return {name for name in names if hasattr(builtins, name) or name.startswith("__")}

"""What questions are made of: types, functional relations between them, and facts (sheet §7.3).

The procedural knowledge base has invented names and draws its facts per environment, so nothing can be
memorised and every answer must come from a tool. A knowledge base of one's own is a JSON file:

    {"types": {"person": ["Ada", "Bo"], "city": ["Oslo", "Rome"], "number": ["12", "30"]},
     "relations": [{"name": "birthplace", "source": "person", "target": "city"},
                   {"name": "age", "source": "person", "target": "number"}],
     "facts": [["birthplace", "Ada", "Rome"], ["age", "Ada", "30"]]}

`facts` may be left out; then they are drawn per environment. Type and relation names are lower-case Python
identifiers; the type `number`, whose values are integers, is what sums and comparisons need.
"""

from __future__ import annotations

import builtins
import json
import keyword
import random
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from shared.seeding import derive_seed

NUMBER = "number"
ENTITIES_PER_TYPE = 40
# Numbers are drawn from 10 … 99: an answer of one digit would be a substring of most other numbers.
NUMBERS = tuple(str(n) for n in range(10, 100))
# A name ends like its type. All names have seven letters, so that none is part of another.
ENDINGS = {
    "person": "ren",
    "city": "ton",
    "country": "nia",
    "company": "tec",
    "river": "ver",
    "book": "log",
    "event": "fes",
}
# (name, source type, target type): 24 functional relations.
RELATION_TABLE = (
    ("birthplace", "person", "city"),
    ("employer", "person", "company"),
    ("mentor", "person", "person"),
    ("biography", "person", "book"),
    ("age", "person", NUMBER),
    ("homeland", "city", "country"),
    ("waterway", "city", "river"),
    ("mayor", "city", "person"),
    ("festival", "city", "event"),
    ("districts", "city", NUMBER),
    ("capital", "country", "city"),
    ("president", "country", "person"),
    ("epic", "country", "book"),
    ("provinces", "country", NUMBER),
    ("founder", "company", "person"),
    ("headquarters", "company", "city"),
    ("offices", "company", NUMBER),
    ("estuary", "river", "city"),
    ("bridges", "river", NUMBER),
    ("author", "book", "person"),
    ("chapters", "book", NUMBER),
    ("venue", "event", "city"),
    ("champion", "event", "person"),
    ("sponsors", "event", NUMBER),
)
OPERATIONS = ("sum", "difference")
# Parameters and variables of the tools that the deterministic backend writes.
RESERVED = frozenset(["relation", "operation", "first", "second", "result", "known", "answer"])
RESERVED |= frozenset(["language", "detail", "verified", "limit", "sources", "filters"])


@dataclass(frozen=True)
class Relation:
    """A function from entities of one type to entities of another."""

    name: str
    source: str
    target: str

    @property
    def words(self) -> str:
        return self.name.replace("_", " ")


@dataclass(frozen=True)
class KnowledgeBase:
    """Types with their entities, relations, and facts unless they are drawn per environment."""

    entities: dict[str, tuple[str, ...]]
    relations: tuple[Relation, ...]
    facts: dict[tuple[str, str], str] | None = None  # (relation, subject) → value

    def from_source(self, source: str) -> list[Relation]:
        return [relation for relation in self.relations if relation.source == source]

    @cached_property
    def by_name(self) -> dict[str, Relation]:
        return {relation.name: relation for relation in self.relations}

    def world(self, seed: int) -> World:
        """The facts of one environment."""
        return World(self, seed)


@dataclass(frozen=True)
class World:
    """The facts that hold in one environment."""

    kb: KnowledgeBase
    seed: int

    def fact(self, relation: Relation, subject: str) -> str | None:
        """The value of `relation` at `subject`, never the subject itself; None if it is not known."""
        if self.kb.facts is not None:
            return self.kb.facts.get((relation.name, subject))
        rng = random.Random(derive_seed(self.seed, "fact", relation.name, subject))
        value = rng.choice(self.kb.entities[relation.target])
        return None if value == subject else value

    def subjects(self, relation: Relation) -> list[str]:
        """Entities at which `relation` is known, in the order of the knowledge base."""
        if self.kb.facts is None:
            return list(self.kb.entities[relation.source])
        return [x for x in self.kb.entities[relation.source] if (relation.name, x) in self.kb.facts]

    def decoys(
        self, relation: Relation, count: int, *, not_about: Collection[str], not_saying: Collection[str]
    ) -> dict[str, str]:
        """At most `count` facts of `relation` about other entities, with other values."""
        rng = random.Random(derive_seed(self.seed, "decoys", relation.name))
        known = self.subjects(relation)
        found: dict[str, str] = {}
        for subject in rng.sample(known, len(known)):
            if len(found) == count:
                break
            value = self.fact(relation, subject)
            if subject not in not_about and value and value not in not_saying:
                found[subject] = value
        return found


@cache
def procedural() -> KnowledgeBase:
    """The built-in knowledge base: 7 types of 40 names, numbers, 24 relations, facts per environment."""
    rng = random.Random(derive_seed("tool_env_rl", "entities"))
    first, middle, vowels = "BDFGKLMNPRSTVZ", "bdglmnrtvz", "aeiou"
    stems = [f"{a}{b}{c}{d}" for a in first for b in vowels for c in middle for d in vowels]
    chosen = rng.sample(stems, ENTITIES_PER_TYPE * len(ENDINGS))
    entities: dict[str, tuple[str, ...]] = {}
    for position, (kind, ending) in enumerate(ENDINGS.items()):
        own = chosen[position * ENTITIES_PER_TYPE : (position + 1) * ENTITIES_PER_TYPE]
        entities[kind] = tuple(stem + ending for stem in own)
    return KnowledgeBase(entities | {NUMBER: NUMBERS}, tuple(Relation(*row) for row in RELATION_TABLE))


def held_out(first: str, second: str) -> bool:
    """Whether the composition second ∘ first is kept out of ordinary environments (a third of all pairs)."""
    return derive_seed("composition", first, second) % 3 == 0


def load(path: Path | str) -> KnowledgeBase:
    """A knowledge base of one's own; ValueError names what is wrong and how to write it."""
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        hint = "see python -m tool_env_rl.build --help"
        raise ValueError(f"{path} is not valid JSON ({error}); {hint}") from None
    if not isinstance(data, dict) or not isinstance(data.get("types"), dict) or not data.get("relations"):
        raise ValueError(f'{path} must be an object with "types" and "relations" ("facts" is optional)')
    entities: dict[str, tuple[str, ...]] = {}
    for kind, names in data["types"].items():
        _identifier(path, "type", kind)
        if not _texts(names) or len(set(names)) != len(names) or not names:
            raise ValueError(f"{path}: type {kind!r} must list its names, non-empty strings that all differ")
        if kind == NUMBER and (bad := [name for name in names if not _integer(name)]):
            raise ValueError(f"{path}: {bad[0]!r} is of type number but no integer; give it another type")
        entities[kind] = tuple(names)
    relations = tuple(_relation(path, row, entities) for row in data["relations"])
    if repeated := {r.name for r in relations if [x.name for x in relations].count(r.name) > 1}:
        raise ValueError(f"{path}: relation {min(repeated)!r} is given more than once; names must differ")
    kb = KnowledgeBase(entities, relations)
    return kb if data.get("facts") is None else replace(kb, facts=_facts(path, data["facts"], kb))


def _relation(path: Path | str, row: Any, entities: dict[str, tuple[str, ...]]) -> Relation:
    if not isinstance(row, dict) or not _texts(row.get(key) for key in ("name", "source", "target")):
        raise ValueError(f'{path}: relation {row!r} must be {{"name": …, "source": …, "target": …}}')
    relation = Relation(row["name"], row["source"], row["target"])
    _identifier(path, "relation", relation.name)
    for kind in (relation.source, relation.target):
        if kind not in entities:
            raise ValueError(
                f"{path}: relation {relation.name!r} uses type {kind!r}; types are {', '.join(entities)}"
            )
    if relation.source == NUMBER or relation.name in OPERATIONS:
        called = " or ".join(OPERATIONS)
        raise ValueError(
            f"{path}: relation {relation.name!r} must not start from numbers or be called {called}"
        )
    return relation


def _facts(path: Path | str, rows: Any, kb: KnowledgeBase) -> dict[tuple[str, str], str]:
    facts: dict[tuple[str, str], str] = {}
    for row in rows if isinstance(rows, list) else [rows]:
        if not isinstance(row, list) or len(row) != 3 or not _texts(row):
            raise ValueError(f"{path}: fact {row!r} must be [relation, subject, value]")
        name, subject, value = row
        relation = kb.by_name.get(name)
        if relation is None:
            raise ValueError(f"{path}: fact {row!r} uses relation {name!r}, which is not declared")
        for kind, entity in ((relation.source, subject), (relation.target, value)):
            if entity not in kb.entities[kind]:
                raise ValueError(f"{path}: fact {row!r}: {entity!r} is not listed under type {kind!r}")
        if facts.setdefault((name, subject), value) != value:
            raise ValueError(f"{path}: {name} of {subject!r} has two values; a relation is a function")
    return facts


def _texts(values: Any) -> bool:
    return isinstance(values, Iterable) and all(isinstance(value, str) and value.strip() for value in values)


def _integer(text: str) -> bool:
    return text.removeprefix("-").isdecimal() and text.isascii()


def usable_name(name: object) -> bool:
    """Whether a relation or type may be called so: it becomes the name of a tool or parameter."""
    if not isinstance(name, str) or not name.isascii() or not name.isidentifier() or name != name.lower():
        return False
    return not keyword.iskeyword(name) and not hasattr(builtins, name) and name not in RESERVED


def _identifier(path: Path | str, what: str, name: str) -> None:
    if not usable_name(name):
        raise ValueError(
            f"{path}: {what} name {name!r} must be a lower-case Python identifier, no builtin, and none of "
            f"{', '.join(sorted(RESERVED))}"
        )

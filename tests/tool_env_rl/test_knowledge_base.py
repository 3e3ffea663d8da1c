"""Types, relations and facts: the numbers of the sheet's §7.3, and files of one's own."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from tool_env_rl import knowledge_base
from tool_env_rl.knowledge_base import NUMBER, KnowledgeBase, held_out, procedural

OWN = {
    "types": {"person": ["Ada", "Bo"], "city": ["Oslo", "Rome"], "number": ["12", "30"]},
    "relations": [
        {"name": "birthplace", "source": "person", "target": "city"},
        {"name": "age", "source": "person", "target": "number"},
    ],
    "facts": [["birthplace", "Ada", "Rome"], ["age", "Ada", "30"]],
}


def write(folder: Path, data: object) -> Path:
    path = folder / "kb.json"
    path.write_text(json.dumps(data))
    return path


def test_the_built_in_one_has_the_sizes_of_the_sheet() -> None:
    kb = procedural()
    entities = {kind: names for kind, names in kb.entities.items() if kind != NUMBER}
    assert len(kb.entities) == 8
    assert {len(names) for names in entities.values()} == {40}
    assert len(kb.relations) == len(kb.by_name) == 24
    assert all(r.source in entities and r.target in kb.entities for r in kb.relations)
    everything = [name for names in kb.entities.values() for name in names]
    words = [*everything, *(r.name for r in kb.relations), *kb.entities]
    assert not [(a, b) for a in everything for b in words if a != b and a.lower() in b.lower()]


def test_facts_are_functions_of_the_seed_and_differ_between_environments() -> None:
    kb = procedural()
    relation, people = kb.by_name["birthplace"], kb.entities["person"]
    first = [kb.world(1).fact(relation, p) for p in people]
    assert first == [kb.world(1).fact(relation, p) for p in people]
    other = [kb.world(2).fact(relation, p) for p in people]
    assert sum(a == b for a, b in zip(first, other, strict=True)) < 8
    assert set(first) <= set(kb.entities["city"])
    mentor = kb.by_name["mentor"]
    assert all(kb.world(s).fact(mentor, p) != p for s in range(20) for p in people)


def test_decoys_are_about_others_and_say_other_things() -> None:
    world = procedural().world(3)
    relation = world.kb.by_name["age"]
    told = world.decoys(relation, 39, not_about=("Galoren",), not_saying=("42",))
    assert "Galoren" not in told
    assert "42" not in told.values()
    assert all(world.fact(relation, subject) == value for subject, value in told.items())
    assert len(world.decoys(relation, 3, not_about=(), not_saying=())) == 3


def test_about_a_third_of_the_compositions_is_held_out() -> None:
    relations = procedural().relations
    pairs = [held_out(a.name, b.name) for a in relations for b in relations if a.target == b.source]
    assert len(pairs) == 71
    assert Counter(pairs)[True] == 20


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    kb = knowledge_base.load(write(tmp_path, OWN))
    world = kb.world(0)
    assert world.fact(kb.by_name["birthplace"], "Ada") == "Rome"
    assert world.fact(kb.by_name["birthplace"], "Bo") is None
    assert world.subjects(kb.by_name["age"]) == ["Ada"]
    drawn = knowledge_base.load(write(tmp_path, {k: v for k, v in OWN.items() if k != "facts"}))
    assert drawn.world(0).fact(drawn.by_name["birthplace"], "Bo") in ("Oslo", "Rome")
    assert isinstance(drawn, KnowledgeBase)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"types": 3}, '"types" and "relations"'),
        ({"types": {"person": ["Ada", "Ada"]}}, "must list its names"),
        ({"types": {"number": ["x"]}}, "'x' is of type number but no integer"),
        ({"types": {"list": ["x"]}}, "type name 'list'"),
        ({"types": {"relation": ["x"]}}, "type name 'relation'"),
        ({"relations": [{"name": "a"}]}, '"source"'),
        ({"relations": [{"name": "Big Name", "source": "person", "target": "city"}]}, "'Big Name'"),
        ({"relations": [{"name": "a", "source": "person", "target": "planet"}]}, "type 'planet'"),
        (
            {"relations": [{"name": "difference", "source": "person", "target": "number"}]},
            "called sum or difference",
        ),
        ({"relations": OWN["relations"] * 2}, "more than once"),
        ({"facts": [["birthplace", "Ada"]]}, r"\[relation, subject, value\]"),
        ({"facts": [["height", "Ada", "Rome"]]}, "not declared"),
        ({"facts": [["birthplace", "Ada", "Paris"]]}, "'Paris' is not listed under type 'city'"),
        ({"facts": [["birthplace", "Ada", "Rome"], ["birthplace", "Ada", "Oslo"]]}, "two values"),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, change: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        knowledge_base.load(write(tmp_path, OWN | change))


def test_a_file_that_is_no_json_is_named(tmp_path: Path) -> None:
    path = tmp_path / "kb.json"
    path.write_text("{")
    with pytest.raises(ValueError, match="not valid JSON"):
        knowledge_base.load(path)

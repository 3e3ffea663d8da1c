"""Tags: `[Easy]` or `[Hard]` as the first six characters, and nothing else (sheet §2.1, pitfall 6.11)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adactrl.tags import MODES, TAG_TEXT, forced_prefix, parse_tag


@pytest.mark.parametrize(
    ("response", "tag"),
    [
        ("[Easy] 4", "easy"),
        ("[Hard] let me think", "hard"),
        ("[Easy]", "easy"),
        ("[HARD]...", "hard"),
        ("[easy]4", "easy"),
        ("[hArD]", "hard"),
        ("[Easy] then [Hard]", "easy"),
        ("", None),
        (" [Easy] 4", None),
        ("\n[Easy] 4", None),
        ("**[Easy]** 4", None),
        ("[Easy 4", None),
        ("Easy] 4", None),  # the authors' r_f branch does not look at the bracket
        ("(Easy) 4", None),
        ("[ Easy] 4", None),
        ("[Medium] 4", None),
        ("\\boxed{4} [Easy]", None),
        ("[Ea\u017fy] 4", None),  # the long s equals s when case is ignored in Unicode
    ],
)
def test_parse_tag(response: str, tag: str | None) -> None:
    assert parse_tag(response) == tag


@given(st.text(max_size=12))
def test_only_the_first_six_characters_matter(text: str) -> None:
    expected = {"[easy]": "easy", "[hard]": "hard"}.get(text[:6].lower())
    assert parse_tag(text) == expected
    assert parse_tag(text[:6]) == expected


@given(st.text(max_size=20))
def test_whatever_follows_a_tag_does_not_change_it(text: str) -> None:
    assert parse_tag("[Easy]" + text) == "easy"
    assert parse_tag("[Hard]" + text) == "hard"


def test_forced_prefix_is_the_bare_tag() -> None:
    assert [forced_prefix(mode) for mode in MODES] == ["", "[Easy]", "[Hard]"]
    assert all(len(text) == 6 and parse_tag(text) == name for name, text in TAG_TEXT.items())


def test_unknown_mode_is_named_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"mode='medium' is not one of adaptive, easy, hard"):
        forced_prefix("medium")  # type: ignore[arg-type]

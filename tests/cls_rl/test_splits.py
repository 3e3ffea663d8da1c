"""List sizes of the paper's data sets, lists, halves, shots, and every kind of leak."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cls_rl.splits import (
    BASE_NEW_SHARE,
    Item,
    Split,
    base_new,
    check_leakage,
    check_names,
    list_size,
    option_list,
    split,
)


def items(classes: int = 5, each: int = 6, prefix: str = "c") -> list[Item]:
    """Images without a side; `look` differs in many bits between any two."""
    rng = random.Random(prefix)
    return [
        Item(f"{prefix}{c}/{i}.png", f"{prefix}{c}", f"{prefix}{c}-{i}", rng.getrandbits(64))
        for c in range(classes)
        for i in range(each)
    ]


# --- halves and lists ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("classes", "few_shot", "halves"),
    [  # Table 8 and the lists of section 3.3
        (1000, 100, (100, 100)), (100, 40, (40, 40)), (37, 30, (19, 18)), (196, 78, (78, 78)),
        (102, 40, (40, 40)), (101, 40, (40, 40)), (397, 100, (100, 100)), (47, 30, (24, 23)),
        (10, 10, (5, 5)),
    ],
)  # fmt: skip
def test_list_sizes_of_the_paper(classes: int, few_shot: int, halves: tuple[int, int]) -> None:
    assert list_size(classes) == few_shot
    base, new = base_new([f"{i:04d}" for i in range(classes)])
    assert (list_size(len(base), BASE_NEW_SHARE), list_size(len(new), BASE_NEW_SHARE)) == halves


def test_list_size_at_its_edges() -> None:
    assert [list_size(c) for c in (1, 29, 30, 74, 77, 78, 250, 252, 10_000)] == [
        1,
        29,
        30,
        30,
        30,
        31,
        100,
        100,
        100,
    ]
    assert [list_size(c, below_30="all") for c in (37, 47, 74, 75)] == [37, 47, 74, 30]
    assert all(list_size(c) == min(c, max(30, min(100, 2 * c // 5))) for c in range(1, 10_001))
    with pytest.raises(ValueError, match=r"num_classes=0 is"):
        list_size(0)
    with pytest.raises(ValueError, match=r"share=1\.5"):
        list_size(10, 1.5)


def test_base_new() -> None:
    assert base_new(["c", "a", "b"]) == (["a", "b"], ["c"])
    assert base_new(("d", "c", "b", "a")) == (["a", "b"], ["c", "d"])
    assert base_new(["x"]) == (["x"], [])
    assert base_new(["b", "a", "b"]) == (["a"], ["b"])
    assert base_new(["é", "z", "bell, church"]) == (["bell, church", "z"], ["é"])
    base, new = base_new(f"{i:05d}" for i in range(10_000))
    assert (len(base), len(new), max(base) < min(new)) == (5000, 5000, True)
    with pytest.raises(ValueError, match="no class names"):
        base_new([])


@given(
    st.lists(st.text(min_size=1), min_size=1, max_size=60, unique=True),
    st.integers(1, 80),
    st.integers(0, 9),
    st.data(),
)
def test_list_holds_the_label_once(names: list[str], n: int, seed: int, data: st.DataObject) -> None:
    label = data.draw(st.sampled_from(names))
    options = option_list(label, names, n, random.Random(seed))
    assert Counter(options)[label] == 1
    assert len(options) == len(set(options)) == min(n, len(names))
    assert set(options) <= set(names)


def test_option_list_is_seeded_uniform_and_leaves_its_input_alone() -> None:
    names = [f"n{i}" for i in range(50)]
    before = list(names)
    again = [option_list("n7", names, 10, random.Random(3)) for _ in range(2)]
    assert again[0] == again[1] != option_list("n7", names, 10, random.Random(4))
    assert names == before
    rng = random.Random(0)
    places = Counter(option_list("n7", names, 10, rng).index("n7") for _ in range(2000))
    assert set(places) == set(range(10))
    assert max(places.values()) < 1.4 * min(places.values())  # the replaced name does not stay last
    assert len(option_list("n7", names, 10, np.random.default_rng(0))) == 10


def test_option_list_edges() -> None:
    assert option_list("a", ["a"], 30, random.Random(0)) == ["a"]
    assert option_list("a", ["a", "b"], 1, random.Random(1)) == ["a"]
    assert sorted(option_list("crane", ["crane", "crane", "ibis"], 3, random.Random(0))) == ["crane", "ibis"]
    names = [f"name, {i}" for i in range(10_000)]
    assert "name, 42" in option_list("name, 42", names, 100, random.Random(0))
    with pytest.raises(ValueError, match="'z' is not among the 2 class names"):
        option_list("z", ["a", "b"], 2, random.Random(0))
    with pytest.raises(ValueError, match="n=0"):
        option_list("a", ["a"], 0, random.Random(0))


@pytest.mark.parametrize(
    "twin", ["Golden retriever", "golden_retriever", "golden-retriever", "golden  retriever."]
)
def test_near_duplicate_names(twin: str) -> None:
    with pytest.raises(ValueError, match="near-duplicates; merge or rename"):
        check_names(["cat", "golden retriever", twin])


def test_names_that_only_look_alike_pass() -> None:
    check_names(["cat", "cats", "cat", "bell, church", "C", "D", "!", "?", "東京", "京都"])
    check_names(["कल", "काल", "มา", "ม้า", "C", "C++", "C#", "1.5", "15", "+1", "-1", "1"])
    check_names(["runner ♂", "runner ♀", "⭐ big", "🌟 big"])
    check_names(f"name, {i}" for i in range(10_000))
    for one, two in (("F-16", "F16"), ("U.S.", "US"), ("1,500 m", "1,500m"), ("cafe\u0301", "café")):
        with pytest.raises(ValueError, match="near-duplicates"):
            check_names([one, two])
    with pytest.raises(ValueError, match="empty"):
        check_names(["cat", " "])


# --- splits -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shots", [1, 4])
def test_few_shot_counts(shots: int) -> None:
    got = split({"a": items()}, "a", "few_shot", shots=shots)
    assert Counter(e.item.label for e in got.train) == {f"c{i}": shots for i in range(5)}
    assert len(got.train) + len(got.tests["a"]) == 30
    assert not {e.item.image for e in got.train} & {e.item.image for e in got.tests["a"]}
    assert all(e.item.label in e.options and len(e.options) == 5 for e in [*got.train, *got.tests["a"]])


def test_base_to_new_keeps_the_halves_apart() -> None:
    got = split({"a": items()}, "a", "base_to_new", shots=4)
    base, new = {"c0", "c1", "c2"}, {"c3", "c4"}
    assert {e.item.label for e in got.train} == {e.item.label for e in got.tests["base"]} == base
    assert {e.item.label for e in got.tests["new"]} == new
    assert all(set(e.options) == base for e in [*got.train, *got.tests["base"]])
    assert all(set(e.options) == new for e in got.tests["new"])
    assert len(got.tests["new"]) == 12  # no image of a new class is spent on training


def test_cross_tests_on_every_set() -> None:
    got = split({"a": items(), "b": items(7, 3, "d")}, "a", "cross", shots=4)
    assert {name: len(test) for name, test in got.tests.items()} == {"a": 10, "b": 21}
    assert all(e.item.label.startswith("c") for e in got.train)
    few_shot = split({"a": items()}, "a", "few_shot", shots=4)
    assert (got.train, got.tests["a"]) == (few_shot.train, few_shot.tests["a"])


def test_split_is_a_function_of_items_and_seed() -> None:
    shuffled = items()
    random.Random(1).shuffle(shuffled)
    one, two = (split({"a": i}, "a", "few_shot", seed=5) for i in (items(), shuffled))
    assert one.train == two.train
    assert sorted(map(repr, one.tests["a"])) == sorted(map(repr, two.tests["a"]))
    assert one.train != split({"a": items()}, "a", "few_shot", seed=6).train


def test_renderings_of_one_drawing_stay_together_and_come_last() -> None:
    drawn = [
        Item(f"{v}/{c}#{k}", c, f"{v}{c}", 0, family=v, side=side)
        for c in ("ant", "bee")
        for v, side in (("v1", "train"), ("v2", "train"), ("v3", "test"))
        for k in range(3)
    ]
    got = split({"a": drawn}, "a", "few_shot", shots=2)
    assert {(e.item.label, e.item.family) for e in got.train} == {
        (c, v) for c in ("ant", "bee") for v in ("v1", "v2")
    }
    assert {e.item.family for e in got.tests["a"]} == {"v3"}
    assert len(split({"a": drawn}, "a", "few_shot", shots=6).train) == 12


def test_equal_pixels_stay_on_one_side() -> None:
    twins = [replace(i, image=i.image + ".copy") for i in items(2, 5)]
    for seed in range(5):
        got = split({"a": [*items(2, 5), *twins]}, "a", "few_shot", shots=3, seed=seed)
        assert not {e.item.digest for e in got.train} & {e.item.digest for e in got.tests["a"]}
        assert Counter(e.item.label for e in got.train) == {"c0": 3, "c1": 3}


def test_near_duplicates_are_counted() -> None:
    pool = [replace(item, look=0) for item in items(2, 5)]
    assert split({"a": pool}, "a", "few_shot").near_duplicates == {"a": 2}
    assert split({"a": items(2, 5)}, "a", "few_shot").near_duplicates == {"a": 0}
    far = [replace(i, look=0b1111 if i.side == "test" else 0) for i in sided(items(2, 5))]
    assert split({"a": far}, "a", "few_shot", shots=2).near_duplicates == {"a": 0}
    near = [replace(i, look=0b111 if i.side == "test" else 0) for i in sided(items(2, 5))]
    assert split({"a": near}, "a", "few_shot", shots=2).near_duplicates == {"a": 6}


def sided(pool: list[Item]) -> list[Item]:
    return [replace(i, side="train" if i.image[3:4] in "01" else "test") for i in pool]


def test_leaks_are_refused() -> None:
    good = split({"a": items()}, "a", "few_shot")
    leaked = replace(good.tests["a"][0], item=good.train[0].item)
    with pytest.raises(ValueError, match=r"is also the training image c0/\d\.png"):
        check_leakage(Split(good.train, {"a": [leaked]}, 0))
    drawn = [replace(item, family="openmoji") for item in sided(items())]
    with pytest.raises(ValueError, match="drawing family 'openmoji' is in training and in test set a"):
        split({"a": drawn}, "a", "few_shot", shots=2)
    with pytest.raises(ValueError, match="has no images"):
        split({"a": [replace(item, side="train") for item in items()]}, "a", "few_shot")
    other = [replace(item, label="d" + item.label) for item in items()]
    with pytest.raises(ValueError, match="is also the training image"):
        split({"a": items(), "b": other}, "a", "cross")


@pytest.mark.parametrize(
    ("pool", "setting", "shots", "sentence"),
    [
        (items(2, 4), "few_shot", 4, "has 4 different images, but shots=4 and a test image need 5"),
        (items(2, 3), "few_shot", 4, "has 3 different images"),
        (sided(items(2, 4)), "few_shot", 4, "has 2 training images, fewer than shots=4"),
        (items(1, 6), "base_to_new", 4, "a has 1 class and so no new half"),
        (items(), "few_shot", 0, "shots=0 is below 1"),
        (items(), "zero_shot", 4, "few_shot, base_to_new, cross"),
        ([*items(1), *[replace(i, label="C0 ") for i in items(1)]], "few_shot", 4, "near-duplicates"),
        ([*items(1), *[replace(i, label="x") for i in items(1)]], "few_shot", 4, "one image with two labels"),
    ],
)
def test_errors_are_one_sentence(pool: list[Item], setting, shots: int, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence) as caught:
        split({"a": pool}, "a", setting, shots=shots)
    assert "\n" not in str(caught.value)


def test_unknown_set_one_class_and_two_hundred_classes() -> None:
    with pytest.raises(ValueError, match="tuned_on='z' is not one of a"):
        split({"a": items()}, "z", "few_shot")
    one = split({"a": items(1)}, "a", "few_shot")
    assert {e.options for e in one.train} == {("c0",)}
    pool = [Item(f"{c}", f"c{c // 2}", f"{c}", c) for c in range(20_000)]
    pool = [replace(i, side="train" if int(i.image) % 2 else "test") for i in pool if int(i.image) < 400]
    assert len(split({"a": pool}, "a", "few_shot", shots=1).tests["a"][0].options) == 80

"""SynLogic's verifiers on small puzzles made by hand from each task's rules: right, wrong, no answer."""

from __future__ import annotations

import ast
import contextlib
import io
import json
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignment_study import kor_bench
from alignment_study.synlogic import games, reading
from alignment_study.synlogic.games import GAMES, grade
from alignment_study.synlogic.reading import Puzzle


class Case(NamedTuple):
    task: str
    puzzle: Puzzle
    right: list[str]
    wrong: list[str]
    malformed: list[str]


def fenced(content: object) -> str:
    return f"```python\n{content}\n```"


def case(task: str, answer: Any, right: list, wrong: list, malformed: list, /, **metadata: Any) -> Case:
    return Case(task, Puzzle(answer, metadata), right, wrong, malformed)


SUDOKU = [[(3 * row + row // 3 + column) % 9 + 1 for column in range(9)] for row in range(9)]
SUDOKU_GIVEN = [[cell if (r + c) % 2 else "X" for c, cell in enumerate(row)] for r, row in enumerate(SUDOKU)]
SWAPPED = [SUDOKU[3], *SUDOKU[1:3], SUDOKU[0], *SUDOKU[4:]]  # rows and columns stay right, boxes do not
SKYLINE = [[1, 2, 3], [2, 3, 1], [3, 1, 2]]
REGIONS = [list("AABB"), list("AABB"), list("CCDD"), list("CCDD")]
TREES = [["T", "X", "X"], ["X", "X", "X"], ["X", "X", "T"]]
CAMP = [["T", "X", "X"], ["C", "X", "C"], ["X", "X", "T"]]
ZEBRA = {"House 1": {"pet": "cat", "number": 1}, "House 2": {"pet": "dog", "number": 2}}
CAGES = [
    {"cells": ["(1,1)", "(1,2)"], "target": 3, "operator": "+"},
    {"cells": ["(1,3)", "(2,3)"], "target": 3, "operator": "÷"},
    {"cells": ["(2,1)", "(3,1)"], "target": 6, "operator": "*"},
    {"cells": ["(2,2)", "(3,2)"], "target": 2, "operator": "-"},
    {"cells": ["(3,3)"], "target": 2, "operator": "+"},
]

CASES = [
    case(
        "arc_agi",
        "[[1, 0], [0, 1]]",
        ["[[1,0],[0,1]]", "```json\n[[1, 0],\n [0, 1],]\n```", "((1, 0), (0, 1))"],
        ["[[1,0],[1,1]]", "[[1,0]]"],
        ["the grid", "[[1,0],[0]]", "[[1.0,0],[0,1]]", "[[true,0],[0,1]]", "[[1, 0), (0, 1]]"],
    ),
    case(
        "boolean_expressions",
        "A,C",
        [r"\boxed{A,C}", r"so \boxed{B}, no: \boxed{c, a}"],
        [r"\boxed{A}", r"\boxed{A,B,C}"],
        ["A,C", r"\boxed{A and C}", r"\boxed{}"],
    ),
    case(
        "buggy_tables",
        "42.50",
        ["42.50", '```json\n{"result": [{"answer": 42.50}]}\n```', '{"result": [{"answer": "42.50"}]}'],
        ["42.00", '{"result": [{"answer": 4.25}, {"answer": 42.50}]}'.replace("4.25", "4.20")],
        ["42.5", "between 1.00 and 42.50", '{"answer": 42.50}'],
    ),
    case(
        "calcudoko",
        "[[1 2 3,2 3 1,3 1 2]]",
        ["[[1 2 3,2 3 1,3 1 2]]", "first [[1]], then [[1 2 3, 2 3 1, 3 1 2]]"],
        ["[[2 1 3,1 3 2,3 2 1]]", "[[1 2 3,1 2 3,1 2 3]]", "[[1 2 3,2 3 1]]"],
        ["1 2 3,2 3 1,3 1 2", "[[1 2 3,2 3 1,3 1]]", "[[1 2 3],[2 3 1],[3 1 2]]"],
        grid_size=3,
        regions=CAGES,
    ),
    case(
        "campsite",
        "",
        [str(CAMP), fenced(json.dumps(CAMP))],
        [
            str(TREES),
            str(CAMP).replace("X", "."),
            "[['T','C','X'],['X','X','C'],['X','X','T']]",  # tents touch
            "[['C','X','X'],['C','X','C'],['X','X','T']]",  # a tree felled
        ],
        ["T X X", "[['T','X'],['C']]"],
        grid=TREES,
        row_constraints=[0, 2, 0],
        col_constraints=[1, 0, 1],
    ),
    case(
        "campsite",
        "",
        [],
        ["[['C','T','C','X','T']]"],  # both tents have only the first tree beside them
        [],
        grid=[["X", "T", "X", "X", "T"]],
        row_constraints=[2],
        col_constraints=[1, 0, 1, 0, 0],
    ),
    case(
        "cipher",
        "[[NOON]]",
        ["[[NOON]]", '[["NOON"]]', fenced("[['NOON']]")],
        ["[[NONO]]", "[[noon]]"],
        ["NOON", "['NOON']"],
    ),
    case(
        "cryptarithm",
        "91 + 9 = 100",
        ["The answer is 91 + 9 = 100", "81+9=90? No: 91+9=100."],
        ["91 + 8 = 99", "9 + 91 = 100"],
        ["A = 9, B = 1", "91 + 9", ""],
    ),
    case(
        "dyck_language",
        "([]{})",
        ["([]{})", '"([] {})"'],
        ["([]{}", "([]{})()", "It is ([]{})"],
        ["", " \n"],
        full_sequence="([]{})",
    ),
    case(
        "dyck_language_errors",
        "4",
        ["4", " 4 "],
        ["-1", "5"],
        ["invalid", "position 4", "4.0"],
        is_valid=False,
        first_error_pos=4,
    ),
    case(
        "dyck_language_errors",
        "-1",
        ["-1"],
        ["1", "7"],
        ["valid", "correct"],
        is_valid=True,
        first_error_pos=None,
    ),
    case(
        "dyck_language_reasoning_errors",
        "3,7",
        ["3,7", "7, 3", '"3,7"', "3，7"],
        ["3", "3,7,8", '""'],
        ["unclear", "Thoughts 3 and 7", "3,7,"],
        error_indices=[3, 7],
    ),
    case("dyck_language_reasoning_errors", "", ["", '""'], ["1"], ["none"], error_indices=[]),
    case(
        "futoshiki",
        [[1, 2, 3], [3, 1, 2], [2, 3, 1]],  # breaks the second sign, as the generator's may
        ["[[1 2 3,2 3 1,3 1 2]]"],
        ["[[1 2 3,3 1 2,2 3 1]]", "[[1 3 2,3 2 1,2 1 3]]", "[[2 3 1,1 2 3,3 1 2]]", "[[1 2,2 1]]"],
        ["[[1, 2, 3], [2, 3, 1], [3, 1, 2]]", "1 2 3"],
        grid_size=3,
        prefilled_coords=[[0, 0]],
        constraints=[[[0, 1], [0, 2], "<"], [[1, 1], [2, 1], ">"]],
    ),
    case(
        "mathador",
        "",
        [fenced("1*2*3*4"), fenced("(1 + 3) * (2 + 4)"), fenced("4/(1/(2*3))")],
        [fenced("1+2+3+4"), fenced("4*6"), fenced("2*3*4"), fenced("2*3*4*1*1"), fenced("12*(3+4)/6")],
        [
            "1*2*3*4",
            fenced("2**3*1*4"),
            fenced("__import__('os')"),
            fenced("1/0+2*3*4"),
            fenced("x"),
            fenced("1*2*3*4 # = 24"),
        ],
        numbers=[1, 2, 3, 4],
        operators=["+", "-", "*", "/"],
        result=24,
    ),
    case("mathador", "", [], [fenced("1*2*3*4")], [], numbers=[1, 2, 3, 4], operators=["+"], result=24),
    case(
        "math_path",
        "3 +4 /2 = 5",
        ["[[3 + 4 / 2 = 5]]", "I try [[4+4/2=5]], then [[3+4/2=5]]"],
        ["[[4+4/2=5]]", "[[(3+4)/2=5]]", "[[3+6/3=5]]", "[[3+4/2=6]]", "[[13+4/2=5]]"],
        ["3+4/2=5", "[3+4/2=5]"],
        query_expr="?+4/2 = 5",
    ),
    case("math_path", "7 %4 = 3", ["[[7%4=3]]"], ["[[8%4=3]]"], [], query_expr="?%4 = 3"),
    case(
        "number_wall",
        "",
        ['[[2,"A",3],["X","A","X"],["A","A","X"]]', fenced("[['2','A',3],['X','A','X'],['A','A','X']]")],
        [
            '[[2,"A",3],["A","A","X"],["A","A","X"]]',  # 2 x 2 walls
            '[[2,"A",3],["X","A","X"],["X","A","X"]]',  # an island too large
            '[[2,"A",3],["X","A","X"],["A","X","X"]]',  # islands touch
            '[[3,"A",2],["X","A","X"],["X","A","A"]]',  # other numbers
            '[[2,"A",3],["X","A","X"]]',
        ],
        ["the walls", "[['A']", "[]"],
        grid=[[2, "X", 3], ["X", "X", "X"], ["X", "X", "X"]],
    ),
    case(
        "number_wall",
        "",
        [],
        ['[[1,"A",1],["A","A","A"],[1,"A",1]]'],  # three numbers of its own
        [],
        grid=[[1, "X", "X"], ["X", "X", "X"], ["X", "X", "X"]],
    ),
    case("number_wall", "", [], ['[[1,"A"],["A",1]]'], [], grid=[[1, "X"], ["X", 1]]),  # at a corner
    case(
        "numbrix",
        "",
        ["[[1, 2, 3], [6, 5, 4], [7, 8, 9]]"],
        ["[[1,2,3],[4,5,6],[7,8,9]]", "[[9,8,7],[4,5,6],[3,2,1]]", "[[1,1,1],[1,1,1],[1,1,9]]", "[[1]]"],
        ["1 2 3", '[[1,2,3],["X",5,4],[7,8,9]]'],
        grid=[[1, "X", "X"], ["X", "X", "X"], ["X", "X", 9]],
    ),
    case("object_properties", "7", [r"\boxed{7}"], [r"\boxed{8}"], ["7", r"\boxed{seven}", r"\boxed{7.0}"]),
    case(
        "operation",
        "-62114",
        [r"\boxed{-62114}", "-62114", r"\boxed{-62,114}", r"\boxed{-\frac{124228}{2}}"],
        [r"\boxed{62114}", r"\boxed{-62114.0000001}"],
        [r"\boxed{x}", "", r"\boxed{-62114/0}", r"\boxed{1e9999}"],
    ),
    case(
        "operation",
        "202.95238095238093",
        [r"\boxed{\frac{4262}{21}}", r"\boxed{202.952381}", "4262/21"],
        [r"\boxed{202.95}", r"\boxed{203}"],
        ["about 203"],
    ),
    case(
        "skyscraper_puzzle",
        "",
        [fenced(SKYLINE)],
        [fenced([row[::-1] for row in SKYLINE]), fenced([[1, 2, 3]] * 3), fenced([[1, 2], [2, 1]])],
        [str(SKYLINE), fenced("grid"), fenced([[1, 2, 3], [2, 3, 1], [3, 1]])],
        n=3,
        top=[3, 2, 1],
        bottom=[1, 2, 2],
        left=[3, 2, 1],
        right=[1, 2, 2],
    ),
    case("space_reasoning", "Shelf", [r"\boxed{shelf}"], [r"\boxed{lamp}"], ["shelf", r"\boxed{}"]),
    case(
        "star_placement_puzzle",
        "",
        [fenced("{\n 'A': [(1, 2)],\n 'B': [(2, 4)],\n 'C': [(3, 1)],\n 'D': [(4, 3)]\n}")],
        [
            fenced("{'A': [(2, 4)], 'B': [(1, 2)], 'C': [(3, 1)], 'D': [(4, 3)]}"),  # names exchanged
            fenced("{'A': [(1, 1)], 'B': [(2, 3)], 'C': [(3, 2)], 'D': [(4, 4)]}"),  # two touch
            fenced("{'A': [(1, 2)], 'B': [(2, 4)], 'C': [(3, 1)]}"),
            fenced("{'A': [(1, 2)], 'B': [(2, 4)], 'C': [(3, 1)], 'D': [(4, 3), (9, 9)]}"),
        ],
        ["{'A': [(1, 2)]}", fenced("A(1,2)"), fenced("{'A': 1}"), fenced("{'A': [(1, 2, 3)]}")],
        n=4,
        k=1,
        region_grid=REGIONS,
    ),
    case(
        "sudoku",
        "",
        [str(tuple(map(tuple, SUDOKU))), fenced(SUDOKU)],
        [fenced(SWAPPED), fenced([[1] * 9] * 9), fenced([row[::-1] for row in SUDOKU]), "((1, 2), (2, 1))"],
        ["123456789", fenced(SUDOKU).replace("1", '"one"')],
        original_sudoku=SUDOKU_GIVEN,
    ),
    case(
        "survo",
        "",
        ["[[1, 2, 3], [4, 5, 9], [5, 7, 12]]"],
        [
            "[[1, 4, 3], [2, 5, 9], [5, 7, 12]]",
            "[[1, 2, 3], [4, 4, 8], [5, 6, 11]]",
            "[[1, 2, 3], [4, 5, 9]]",
        ],
        ["[[1, X, 3]]", "4 and 2"],
        original_matrix=[[1, 0, 3], [0, 5, 9], [5, 7, 12]],
        candidate_numbers=[4, 2],
    ),
    case(
        "time_sequence",
        [45, 3],
        ["[45, 3]", "longest: [45，3]"],
        ["[45, 2]", "[3, 45]"],
        ["45, 3", "[45, 3, 1]", "[45.0, 3]", "[45"],
        records={"answers": {"answer_maxLen": 45, "answer_nums": 3}},
    ),
    case(
        "web_of_lies",
        "yes, no, yes",
        [
            "The answer is **yes, no, yes**.",
            "Yes, No, Yes",
            "reasons\nThe answer is yes, no, yes",
            "**是，否，是**",
        ],
        ["**no, yes, yes**", "**yes, no**"],
        ["I know yes, no, yes", "**true, false, true**", ""],
    ),
    case("web_of_lies", "否, 是", ["答案是 **否,是**。", "no, yes"], ["**是,否**"], ["不知道"]),
    case(
        "word_sorting",
        "pear, fig, apple",
        [r"\boxed{pear,fig,apple}", r"\boxed{pear, fig, apple}", r"\boxed{pear，fig，apple}"],
        [r"\boxed{apple,fig,pear}", r"\boxed{pear,fig}"],
        ["pear,fig,apple", r"\boxed{}"],
    ),
    case(
        "word_sorting_mistake", 3, [r"\boxed{3}"], [r"\boxed{4}", r"\boxed{No}"], ["3", r"\boxed{Thought 3}"]
    ),
    case("word_sorting_mistake", None, [r"\boxed{No}", r"\boxed{no}"], [r"\boxed{1}"], ["No"]),
    case(
        "zebra_puzzle",
        json.dumps(ZEBRA),
        [json.dumps(ZEBRA), str(ZEBRA), f"```json\n{json.dumps(dict(reversed(ZEBRA.items())))}\n```"],
        [json.dumps(ZEBRA).replace("cat", "dog"), json.dumps(ZEBRA).replace(": 1", ': "1"'), "{}"],
        ["the cat lives in House 1", "[1]", "{'House 1'}"],
    ),
]
PUZZLES = {case.task: case.puzzle for case in CASES}


def test_there_is_a_case_for_every_task_of_easy() -> None:
    assert list(PUZZLES) == list(GAMES)
    assert len(GAMES) == 27


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.task)
def test_verdicts(case: Case) -> None:
    assert set(GAMES[case.task].fields) <= set(case.puzzle.metadata)
    for verdict, texts in ((True, case.right), (False, case.wrong), (None, case.malformed)):
        for text in texts:
            assert grade(case.task, text, case.puzzle) is verdict, (text, verdict)


@pytest.mark.parametrize("task", GAMES)
def test_a_row_that_lacks_its_fields_gives_none_not_an_exception(task: str) -> None:
    for case in (case for case in CASES if case.task == task):
        for text in (*case.right, *case.wrong, *case.malformed):
            assert grade(task, text, Puzzle(object(), {})) in (None, False)
            assert grade(task, text, Puzzle(None, dict.fromkeys(GAMES[task].fields))) in (None, False, True)


def test_an_unknown_task_names_the_known() -> None:
    with pytest.raises(ValueError, match=r"'minesweeper'; there are arc_agi, .*, zebra_puzzle"):
        games.grade("minesweeper", "", Puzzle(""))


PIECES = [
    "[[",
    "]]",
    "[",
    "]",
    "(",
    ")",
    "{",
    "}",
    "```",
    "```python",
    "\\boxed{",
    "**",
    '"',
    "'",
    ":",
    ",",
    " ",
]
PIECES += [
    "1",
    "2 3",
    "9" * 60,
    "-1",
    "0.5",
    "%",
    "/0",
    "**9",
    "=",
    "X",
    "T",
    "C",
    "A",
    "yes",
    "是",
    "\n",
    "，",
    "²",
]
TEXTS = st.one_of(st.text(max_size=60), st.lists(st.sampled_from(PIECES), max_size=25).map("".join))


@given(TEXTS)
def test_no_verifier_raises_or_prints(text: str) -> None:
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        for task, puzzle in PUZZLES.items():
            for answer in (text, f"\\boxed{{{text}}}", fenced(text), f"[[{text}]]"):
                assert GAMES[task].verify(answer, puzzle) in (True, False, None)
    assert out.getvalue() == ""


@pytest.mark.parametrize(
    "piece",
    [
        "[[",
        "[ [",
        "[[1],",
        "((",
        "1",
        "1+",
        "1 ",
        "-",
        "9%",
        "```",
        "```a\n",
        "\\boxed{",
        "**",
        "{'a':",
        "[",
        '"',
        ", ",
    ],
)
def test_long_answers_take_little_time(piece: str) -> None:
    """8,192 tokens of whatever a model repeats; every form that a verifier looks for is tried."""
    long = piece * (19_900 // len(piece))
    longer = long * 5
    start = time.process_time()
    for task, puzzle in PUZZLES.items():
        for text in (long, longer, f"[[{long}]]", fenced(long), f"\\boxed{{{long}}}"):
            assert grade(task, text, puzzle) is not True
    assert time.process_time() - start < 6


def test_the_package_neither_evaluates_nor_prints() -> None:
    package = Path(games.__file__).parent
    for path in (*package.glob("*.py"), Path(kor_bench.__file__)):
        called = {
            node.func.id
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        }
        assert not called & {"eval", "exec", "compile", "__import__", "literal_eval"}, path


@pytest.mark.parametrize(
    ("text", "value"),
    [("2+3*4", 14), ("7%4", 3), ("-7 % 4", 1), ("(1+2)/3", 1), ("1/3*3", 1), ("((2))", 2), ("7-(-2)", 9)],
)
def test_arithmetic_is_exact(text: str, value: int) -> None:
    assert reading.arithmetic(text) == value


@pytest.mark.parametrize(
    "text", ["", "1/0", "5%0", "2**3", "7//2", "1_0", "1,2", "(1", "1.5", "a", "1+", "007"]
)
def test_what_is_no_arithmetic(text: str) -> None:
    assert reading.arithmetic(text) is None

"""The 27 tasks of SynLogic-Easy: what verifies each, how its stored answer reads when it is given back as an
answer, and what its rows must hold.

Field names, answer forms and rules are those of the authors' generators and verifiers (MiniMax-AI/SynLogic at
6794f97, shipped by hkust-nlp/model-task-align-rl at d337693); the code is ours. Their verifiers print, call
eval and accept sloppy answers; where ours is stricter, its docstring says so.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import NamedTuple

from alignment_study.synlogic import brackets, expressions, marked_grids, number_grids, short_answers
from alignment_study.synlogic.reading import Puzzle, Verify


class Game(NamedTuple):
    """One task.

    Attributes:
        verify: judges an answer. It may raise on a row without the fields it needs; `grade` does not.
        gold: a right answer as a model would write it; empty where a row stores none.
        fields: of the row's metadata, those that `verify` reads.
    """

    verify: Verify
    gold: Callable[[Puzzle], str]
    fields: tuple[str, ...] = ()


def grade(task: str, answer: str, puzzle: Puzzle) -> bool | None:
    """Whether `answer`, the content of the answer tag, solves the puzzle; None: it has not the asked form.

    Never raises on an answer, prints nothing, evaluates nothing; time is linear in the answer's length.

    Raises:
        ValueError: no such task.
    """
    if task not in GAMES:
        raise ValueError(f"no verifier for the SynLogic task {task!r}; there are {', '.join(GAMES)}")
    try:
        return GAMES[task].verify(answer, puzzle)
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError):  # a row that lacks something
        return None


def _text(puzzle: Puzzle) -> str:
    return puzzle.answer if isinstance(puzzle.answer, str) else json.dumps(puzzle.answer)


def _boxed(puzzle: Puzzle) -> str:
    return f"\\boxed{{{'No' if puzzle.answer is None else puzzle.answer}}}"


def _kept(name: str) -> Callable[[Puzzle], str]:
    """The grid that the generator kept beside the puzzle."""

    def gold(puzzle: Puzzle) -> str:
        found = puzzle.metadata.get(name)
        return f"```python\n{json.dumps(found)}\n```" if found else ""

    return gold


def _none(puzzle: Puzzle) -> str:
    return ""


GAMES: dict[str, Game] = {
    "arc_agi": Game(short_answers.arc_agi, _text),
    "boolean_expressions": Game(short_answers.boolean_expressions, _boxed),
    "buggy_tables": Game(short_answers.buggy_tables, _text),
    "calcudoko": Game(number_grids.calcudoko, _text, ("grid_size", "regions")),
    "campsite": Game(
        marked_grids.campsite, _kept("solution"), ("grid", "row_constraints", "col_constraints")
    ),
    "cipher": Game(short_answers.cipher, _text),
    "cryptarithm": Game(expressions.cryptarithm, _text),
    "dyck_language": Game(brackets.dyck_language, _text, ("full_sequence",)),
    "dyck_language_errors": Game(brackets.dyck_language_errors, _text, ("is_valid", "first_error_pos")),
    "dyck_language_reasoning_errors": Game(
        brackets.dyck_language_reasoning_errors, lambda puzzle: f'"{puzzle.answer}"', ("error_indices",)
    ),
    # the generator draws the signs apart from the grid that it stores
    "futoshiki": Game(number_grids.futoshiki, _none, ("grid_size", "prefilled_coords", "constraints")),
    # stores numbers and operators of its solutions, but not where the parentheses are
    "mathador": Game(expressions.mathador, _none, ("numbers", "operators", "result")),
    "math_path": Game(expressions.math_path, lambda puzzle: f"[[{puzzle.answer}]]", ("query_expr",)),
    "number_wall": Game(marked_grids.number_wall, _kept("solution"), ("grid",)),
    "numbrix": Game(number_grids.numbrix, _kept("solution"), ("grid",)),
    "object_properties": Game(short_answers.object_properties, _boxed),
    "operation": Game(expressions.operation, _boxed),
    "skyscraper_puzzle": Game(
        number_grids.skyscraper_puzzle, _kept("solved_grid"), ("n", "top", "bottom", "left", "right")
    ),
    "space_reasoning": Game(short_answers.space_reasoning, _boxed),
    # the generator's smallest stored placements have stars that touch
    "star_placement_puzzle": Game(marked_grids.star_placement_puzzle, _none, ("n", "k", "region_grid")),
    "sudoku": Game(number_grids.sudoku, _text, ("original_sudoku",)),
    "survo": Game(number_grids.survo, _text, ("original_matrix", "candidate_numbers")),
    "time_sequence": Game(short_answers.time_sequence, _text, ("records",)),
    "web_of_lies": Game(short_answers.web_of_lies, _text),
    "word_sorting": Game(short_answers.word_sorting, _boxed),
    "word_sorting_mistake": Game(short_answers.word_sorting_mistake, _boxed),
    "zebra_puzzle": Game(short_answers.zebra_puzzle, _text),
}

"""Grids to fill with numbers.

An answer is right if it keeps the givens and obeys the rules: a puzzle may have several solutions, and no
answer is compared with the stored one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from math import prod
from typing import Any

from alignment_study.synlogic import reading
from alignment_study.synlogic.reading import Puzzle

Numbers = list[list[int]]
EMPTY = (0, "X", "x")


def sudoku(answer: str, puzzle: Puzzle) -> bool | None:
    """9 x 9, as a tuple of tuples: rows, columns and boxes hold 1 to 9."""
    if (cells := reading.number_grid(answer)) is None:
        return None
    if not _keeps(cells, puzzle.metadata["original_sudoku"]) or not _latin(cells, 9):
        return False
    corners = [(row, column) for row in (0, 3, 6) for column in (0, 3, 6)]
    boxes = ([cells[r + i][c + j] for i in range(3) for j in range(3)] for r, c in corners)
    return all(len(set(box)) == 9 for box in boxes)


def futoshiki(answer: str, puzzle: Puzzle) -> bool | None:
    """[[1 2,2 1]]: a Latin square with the given cells and inequalities, all counted from 0.

    The row's answer is the grid that the givens come from, but the generator draws the signs apart from it,
    so it need not be a solution.
    """
    size, stored = puzzle.metadata["grid_size"], puzzle.answer
    if (cells := reading.spaced_grid(answer)) is None:
        return None
    if not _latin(cells, size):
        return False
    if any(cells[r][c] != stored[r][c] for r, c in puzzle.metadata["prefilled_coords"]):
        return False
    for (r, c), (other_r, other_c), sign in puzzle.metadata["constraints"]:
        low, high = cells[r][c], cells[other_r][other_c]
        if not (low < high if sign == "<" else low > high):
            return False
    return True


def calcudoko(answer: str, puzzle: Puzzle) -> bool | None:
    """[[1 2,2 1]]: a Latin square; each region's numbers differ and give its target.

    The authors' verifier fills short rows with ones and guesses missing grids; here they are no answer.
    """
    if (cells := reading.spaced_grid(answer)) is None:
        return None
    return _latin(cells, puzzle.metadata["grid_size"]) and all(
        _region_fits(cells, region) for region in puzzle.metadata["regions"]
    )


def _region_fits(cells: Numbers, region: dict[str, Any]) -> bool:
    """Regions name their cells "(row,column)", counted from 1."""
    places = [tuple(int(n) for n in cell.strip("() ").split(",")) for cell in region["cells"]]
    numbers = [cells[row - 1][column - 1] for row, column in places]
    target, operation = region["target"], region["operator"]
    if len(set(numbers)) < len(numbers):
        return False
    if operation == "+":
        return sum(numbers) == target
    if operation == "*":
        return prod(numbers) == target
    small, large = min(numbers), max(numbers)
    return len(numbers) == 2 and (large - small == target if operation == "-" else large == small * target)


def skyscraper_puzzle(answer: str, puzzle: Puzzle) -> bool | None:
    """A code block with a list of lists: a Latin square of heights, seen from four sides."""
    content = reading.block(answer)
    cells = None if content is None else reading.number_grid(content)
    if cells is None:
        return None
    clues = puzzle.metadata
    if not _latin(cells, clues["n"]):
        return False
    columns = [list(column) for column in zip(*cells, strict=True)]
    return (
        [_visible(row) for row in cells] == clues["left"]
        and [_visible(row[::-1]) for row in cells] == clues["right"]
        and [_visible(column) for column in columns] == clues["top"]
        and [_visible(column[::-1]) for column in columns] == clues["bottom"]
    )


def _visible(heights: Iterable[int]) -> int:
    tallest, count = 0, 0
    for height in heights:
        if height > tallest:
            tallest, count = height, count + 1
    return count


def survo(answer: str, puzzle: Puzzle) -> bool | None:
    """A list of lists: the candidate numbers, each once, in the empty cells; last row and column are sums."""
    if (cells := reading.number_grid(answer)) is None:
        return None
    original = puzzle.metadata["original_matrix"]
    if not _keeps(cells, original):
        return False
    pairs = zip(cells, original, strict=True)
    filled = [cell for row, given in pairs for cell, old in zip(row, given, strict=True) if old in EMPTY]
    lines = [*cells, *(list(column) for column in zip(*cells, strict=True))]
    return sorted(filled) == sorted(puzzle.metadata["candidate_numbers"]) and all(
        sum(line[:-1]) == line[-1] for line in lines
    )


def numbrix(answer: str, puzzle: Puzzle) -> bool | None:
    """A list of lists: 1 to n², each number beside the next one."""
    if (cells := reading.number_grid(answer)) is None:
        return None
    size = len(puzzle.metadata["grid"])
    if not _keeps(cells, puzzle.metadata["grid"]):
        return False
    place = {number: (r, c) for r, row in enumerate(cells) for c, number in enumerate(row)}
    path = [place[number] for number in range(1, size * size + 1) if number in place]
    if len(path) < size * size:
        return False
    return all(abs(a[0] - b[0]) + abs(a[1] - b[1]) == 1 for a, b in pairwise(path))


def _keeps(cells: Numbers, original: Sequence[Sequence[Any]]) -> bool:
    """Whether the grid has the original's shape and its givens."""
    if [len(row) for row in cells] != [len(row) for row in original]:
        return False
    pairs = zip(cells, original, strict=True)
    return all(
        old in EMPTY or cell == int(old) for row, given in pairs for cell, old in zip(row, given, strict=True)
    )


def _latin(cells: Numbers, size: int) -> bool:
    """Whether it is `size` x `size` and every row and column holds 1 to `size`."""
    wanted = set(range(1, size + 1))
    if len(cells) != size or len(cells[0]) != size:
        return False
    return all(set(line) == wanted for line in [*cells, *zip(*cells, strict=True)])

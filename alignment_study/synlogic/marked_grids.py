"""Grids to mark: tents, walls, stars. Like number grids, an answer is judged by the rules alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from alignment_study.synlogic import reading
from alignment_study.synlogic.reading import Grid, Puzzle

Place = tuple[int, int]
SIDES = ((0, 1), (1, 0), (0, -1), (-1, 0))
CORNERS = ((1, 1), (1, -1), (-1, 1), (-1, -1))


def campsite(answer: str, puzzle: Puzzle) -> bool | None:
    """A list of lists of T (tree), C (tent), X: trees stay, rows and columns have their counts, tents do not
    touch, and tents and trees pair off, each pair side by side.

    The authors take any sign for an empty cell.
    """
    if (cells := reading.grid(answer)) is None:
        return None
    original = puzzle.metadata["grid"]
    if not _same_shape(cells, original) or not all(cell in ("T", "C", "X") for row in cells for cell in row):
        return False
    trees, tents = _places(cells, "T"), _places(cells, "C")
    if trees != _places(original, "T") or len(trees) != len(tents):
        return False
    if [row.count("C") for row in cells] != puzzle.metadata["row_constraints"]:
        return False
    if [column.count("C") for column in zip(*cells, strict=True)] != puzzle.metadata["col_constraints"]:
        return False
    if any((r + i, c + j) in tents for r, c in tents for i, j in SIDES + CORNERS):
        return False
    return _pair_off(tents, trees)


def _pair_off(tents: set[Place], trees: set[Place]) -> bool:
    """Whether every tent can have a tree of its own beside it: augmenting paths."""
    owner: dict[Place, Place] = {}

    def find(tent: Place, tried: set[Place]) -> bool:
        for i, j in SIDES:
            tree = (tent[0] + i, tent[1] + j)
            if tree in trees and tree not in tried:
                tried.add(tree)
                if tree not in owner or find(owner[tree], tried):
                    owner[tree] = tent
                    return True
        return False

    return all(find(tent, set()) for tent in tents)


def number_wall(answer: str, puzzle: Puzzle) -> bool | None:
    """A list of lists of numbers, A (wall), X: every island has one number, its size; islands do not touch,
    not at corners either; no 2 x 2 of walls. The authors let an answer add numbers of its own."""
    if (cells := reading.grid(answer)) is None:
        return None
    original = puzzle.metadata["grid"]
    if not _same_shape(cells, original):
        return False
    for row, given in zip(cells, original, strict=True):
        for cell, old in zip(row, given, strict=True):
            if cell not in (old, str(old)) if type(old) is int else cell not in ("A", "X"):
                return False
    walls = _places(cells, "A")
    if any({(r, c), (r, c + 1), (r + 1, c), (r + 1, c + 1)} <= walls for r, c in walls):
        return False
    owner: dict[Place, int] = {}
    for number, island in enumerate(_islands(cells, walls)):
        sizes = [int(cells[r][c]) for r, c in island if cells[r][c] != "X"]
        if sizes != [len(island)]:
            return False
        owner |= dict.fromkeys(island, number)
    return all(owner.get((r + i, c + j), own) == own for (r, c), own in owner.items() for i, j in CORNERS)


def _islands(cells: Grid, walls: set[Place]) -> Iterator[set[Place]]:
    left = {(r, c) for r, row in enumerate(cells) for c in range(len(row))} - walls
    while left:
        island, border = set(), [left.pop()]
        while border:
            r, c = border.pop()
            island.add((r, c))
            beside = {(r + i, c + j) for i, j in SIDES} & left
            left -= beside
            border.extend(beside)
        yield island


def star_placement_puzzle(answer: str, puzzle: Puzzle) -> bool | None:
    """A code block with {'A': [(row, column)]}, counted from 1: k stars in every row, column and region, none
    beside another. The authors do not look at the names of the regions."""
    content = reading.block(answer)
    value = None if content is None else reading.json_value(content)
    if not isinstance(value, dict):
        return None
    size, k, regions = (puzzle.metadata[name] for name in ("n", "k", "region_grid"))
    stars: list[Place] = []
    for name, places in value.items():
        if not isinstance(places, list):
            return None
        for place in places:
            if not isinstance(place, list) or len(place) != 2 or any(type(n) is not int for n in place):
                return None
            row, column = place[0] - 1, place[1] - 1
            if not (0 <= row < size and 0 <= column < size) or regions[row][column] != name:
                return False
            stars.append((row, column))
    around = {(r + i, c + j) for r, c in stars for i, j in SIDES + CORNERS}
    if len(set(stars)) != len(stars) or around & set(stars):
        return False
    in_rows, in_columns = Counter(r for r, _ in stars), Counter(c for _, c in stars)
    in_regions = Counter(regions[r][c] for r, c in stars)
    lines = all(in_rows[i] == k == in_columns[i] for i in range(size))
    return lines and all(in_regions[name] == k for row in regions for name in row)


def _same_shape(cells: Grid, original: Sequence[Sequence[object]]) -> bool:
    return [len(row) for row in cells] == [len(row) for row in original]


def _places(cells: Sequence[Sequence[object]], sign: str) -> set[Place]:
    return {(r, c) for r, row in enumerate(cells) for c, cell in enumerate(row) if cell == sign}

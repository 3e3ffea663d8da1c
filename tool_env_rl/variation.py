"""New demonstrations from old ones: every pass over them names and orders things differently.

Facts are drawn per environment, but 600 sets of tools can be learnt by heart: a base model did so, with
Solve-F1 0.73 on its training environments at L4 and 0.27 on others. So each pass exchanges, token by token,

    names of entities within their type       Muraton → Toviton; numbers stay, for results depend on them
    general names of the tools of a type      city_index → city_archive
    relations among the general tools of a type, and the calls with them
    the order of documents, and in each of them of relations, operations and optional parameters

alike in documents, question, calls and results. Length and meaning stay.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from typing import Any

from tool_env_rl.build_env.integrate import GENERAL_NAMES
from tool_env_rl.build_env.scale import OPTIONAL
from tool_env_rl.knowledge_base import ENDINGS, NUMBER, OPERATIONS, RELATION_TABLE, procedural
from tool_env_rl.protocol import CALL_START


class Variation:
    """The exchanges that keep the meaning of a conversation in the toy language."""

    def __init__(self, tokenizer: Any) -> None:
        def ids_of(words: Sequence[str]) -> list[int]:
            return tokenizer.convert_tokens_to_ids(list(words))

        entities = [names for kind, names in procedural().entities.items() if kind != NUMBER]
        general = [ids_of([f"{kind}_{ending}" for ending in GENERAL_NAMES]) for kind in ENDINGS]
        self._alike = [*map(ids_of, entities), *general]
        self._general = {tool: group[0] for group in general for tool in group}  # tool -> its type
        self._relations = frozenset(ids_of([row[0] for row in RELATION_TABLE]))
        self._operations, self._optional = frozenset(ids_of(OPERATIONS)), frozenset(ids_of([*OPTIONAL]))
        self._system, self._user, self._end, self._call = ids_of(("<system>", "<user>", ";", CALL_START))

    def __call__(self, ids: Sequence[int], rng: random.Random) -> list[int]:
        """The ids of one conversation after one random exchange."""
        mapping: dict[int, int] = {}
        for known in self._alike:
            mapping |= dict(zip(known, rng.sample(known, len(known)), strict=True))
        found = [mapping.get(token, token) for token in ids]
        if self._system not in found:
            return found
        first, last = found.index(self._system) + 1, found.index(self._user)
        documents = self._documents(found[first:last])
        tool_of = self._exchange_relations(documents, rng)
        rng.shuffle(documents)
        new = [token for document in documents for token in self._shuffled(document, rng)]
        return [*found[:first], *new, *self._calls_moved(found[last:], tool_of)]

    def _documents(self, ids: Sequence[int]) -> list[list[int]]:
        """One list per tool, its name first."""
        documents: list[list[int]] = [[]]
        for token in ids:
            documents[-1].append(token)
            if token == self._end:
                documents.append([])
        return documents[:-1]

    def _exchange_relations(self, documents: list[list[int]], rng: random.Random) -> dict[int, int]:
        """Relations change places within the general tools of one type; relation -> its tool now."""
        places: dict[int, list[tuple[list[int], int]]] = {}
        for document in documents:
            if (kind := self._general.get(document[0])) is not None:
                spots = [(document, i) for i, token in enumerate(document) if token in self._relations]
                places.setdefault(kind, []).extend(spots)
        tool_of = {}
        for spots in places.values():
            relations = [document[i] for document, i in spots]
            for (document, i), relation in zip(spots, rng.sample(relations, len(relations)), strict=True):
                document[i] = relation
                tool_of[relation] = document[0]
        return tool_of

    def _shuffled(self, document: list[int], rng: random.Random) -> list[int]:
        """Words of a list change places with each other; the rest stays where it is."""
        found = list(document)
        for group in (self._relations, self._operations, self._optional):
            places = [i for i, token in enumerate(found) if token in group]
            for place, token in zip(places, rng.sample([found[i] for i in places], len(places)), strict=True):
                found[place] = token
        return found

    def _calls_moved(self, ids: list[int], tool_of: dict[int, int]) -> list[int]:
        """Every call of a general tool names the tool that has its relation now."""
        found = list(ids)
        calls = [i for i, token in enumerate(ids) if token == self._call]
        for start, end in itertools.pairwise([*calls, len(ids)]):
            name = start + 2  # after <tool_call> and {"name":"
            asked = [token for token in ids[name:end] if token in tool_of]
            if asked and ids[name] in self._general:
                found[name] = tool_of[asked[0]]
        return found

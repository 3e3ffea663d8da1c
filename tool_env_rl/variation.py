"""New demonstrations from old ones: every pass over them names and orders things differently.

The facts of an environment are its own (D8), but 600 sets of tools can be learnt by heart: a base model did so,
with Solve-F1 0.78 on its training environments and 0.27 on others. So each pass exchanges, token by token,

    names of entities within their type       Muraton → Toviton; numbers stay, for results depend on them
    general names of the tools of a type      city_index → city_archive
    the order of documents, and in each of them of relations, operations and optional parameters

alike in documents, question, calls and results. Length and meaning stay.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from tool_env_rl.build_env.integrate import GENERAL_NAMES
from tool_env_rl.build_env.scale import OPTIONAL
from tool_env_rl.knowledge_base import ENDINGS, NUMBER, OPERATIONS, RELATION_TABLE, procedural


class Variation:
    """The exchanges that keep the meaning of a conversation in the toy language."""

    def __init__(self, tokenizer: Any) -> None:
        def ids_of(words: Sequence[str]) -> list[int]:
            return tokenizer.convert_tokens_to_ids(list(words))

        entities = [names for kind, names in procedural().entities.items() if kind != NUMBER]
        general = [[f"{kind}_{ending}" for ending in GENERAL_NAMES] for kind in ENDINGS]
        self._alike = [ids_of(words) for words in (*entities, *general)]
        self._ordered = [set(ids_of(w)) for w in ([r[0] for r in RELATION_TABLE], OPERATIONS, OPTIONAL)]
        self._start, self._user, self._end = ids_of(("<system>", "<user>", ";"))

    def __call__(self, ids: Sequence[int], rng: random.Random) -> list[int]:
        """The ids of one conversation after one random exchange."""
        mapping: dict[int, int] = {}
        for known in self._alike:
            mapping |= dict(zip(known, rng.sample(known, len(known)), strict=True))
        found = [mapping.get(token, token) for token in ids]
        if self._start in found:
            first, last = found.index(self._start) + 1, found.index(self._user)
            found[first:last] = self._documents(found[first:last], rng)
        return found

    def _documents(self, ids: Sequence[int], rng: random.Random) -> list[int]:
        documents: list[list[int]] = [[]]
        for token in ids:
            documents[-1].append(token)
            if token == self._end:
                documents.append([])
        documents.pop()  # what follows the last end: nothing
        rng.shuffle(documents)
        return [token for document in documents for token in self._shuffled(document, rng)]

    def _shuffled(self, document: list[int], rng: random.Random) -> list[int]:
        """Words of a list change places with each other; the rest stays where it is."""
        found = list(document)
        for group in self._ordered:
            places = [i for i, token in enumerate(found) if token in group]
            for place, token in zip(places, rng.sample([found[i] for i in places], len(places)), strict=True):
                found[place] = token
        return found

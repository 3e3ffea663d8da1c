"""What the small model reads and answers while it is pretrained: prompts of every method, thoughts, lists.

All prompts come from `prompts.user_text`, as later in RL. A share of replies breaks the format and a share of
thoughts names another option than the answer, so that RL's rewards have something to select.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

from cls_rl import prompts
from cls_rl.data_sets import QUESTIONS, SETS
from cls_rl.pretrain_images import PALETTE
from cls_rl.rewards import METHODS, Method

WRONG_FORMAT = 0.08  # of the replies that need tags; sampling at temperature 1 then earns about 0.92
SLIP = 0.1  # of the thoughts that settle on a name: another option than the answer's
KINDS = {  # data set -> kind of its open question
    "animals": "animal", "food": "food", "faces": "face", "objects": "object", "office": "object",
    "activities": "activity", "transport": "vehicle", "places": "place", "clothing": "clothing",
    "nature": "nature", "flags": "flag",
}  # fmt: skip
PHRASES = {  # kind -> in a thought; "a" and the kind where it is not here
    "animal": "an animal", "object": "an object", "activity": "an activity", "food": "some food",
    "clothing": "something to wear", "nature": "a part of nature",
}  # fmt: skip


@dataclass(frozen=True)
class Concept:
    """One thing with its name and the names that may stand beside it in a list."""

    name: str
    kind: str  # "animal", ...; "thing" outside the data sets
    question: str
    near: tuple[str, ...]  # names of its data set, or of its subgroup of the store


@dataclass(frozen=True)
class Row:
    """One training example; `reply` is learnt, `user` is the text after the picture."""

    user: str
    reply: str


def concepts(groups: Mapping[str, str], sets: Mapping[str, Sequence[str]]) -> dict[str, Concept]:
    """Concepts by name.

    Args:
        groups: name -> Unicode's subgroup, of every drawing for pretraining.
        sets: data set -> its class names; a class's near names are its set, others' are their subgroup's.
    """
    home = {name: data_set for data_set, names in sets.items() for name in names}
    members: dict[str, list[str]] = {}
    for name, group in sorted(groups.items()):
        members.setdefault(group, []).append(name)
    found: dict[str, Concept] = {}
    for name, group in groups.items():
        data_set = home.get(name) or next((s for s, p in SETS.items() if group.startswith(p)), "")
        near = sets[home[name]] if name in home else members[group]
        question = QUESTIONS.get(data_set, prompts.QUESTION)
        found[name] = Concept(name, KINDS.get(data_set, "thing"), question, tuple(near))
    return found


def options(concept: Concept, everything: Sequence[str], size: int, rng: Random) -> list[str]:
    """`size` distinct names (fewer if there are not so many), the concept's among them, in random order.

    In three lists of four the others are near names first, in the fourth any names at all.
    """
    near = [name for name in concept.near if name != concept.name]
    others = rng.sample(near, min(size - 1, len(near))) if rng.random() < 0.75 else []
    taken = {concept.name, *others}
    while len(taken) < min(size, len(everything)):
        taken.add(rng.choice(everything))
    chosen = sorted(taken)
    rng.shuffle(chosen)
    return chosen


def list_row(concept: Concept, names: list[str], colours: Sequence[str], method: Method, rng: Random) -> Row:
    """A list prompt of one method and its reply."""
    wording = "authors_test" if rng.random() < 0.08 else "training"
    user = prompts.user_text(method, names, concept.question, wording)
    return Row(user, reply(concept, names, colours, method, rng))


def open_row(concept: Concept, colours: Sequence[str], method: Method, rng: Random) -> Row:
    """A prompt without a list (open set)."""
    question = concept.question if rng.random() < 0.5 else prompts.OPEN_QUESTION.format(kind=concept.kind)
    return Row(prompts.user_text(method, [], question), reply(concept, [], colours, method, rng))


def reply(concept: Concept, names: Sequence[str], colours: Sequence[str], method: Method, rng: Random) -> str:
    """The reply in the method's format, or with probability WRONG_FORMAT in a wrong one."""
    name = concept.name
    if method == "no_thinking":
        wrong = (f"<answer>{name}</answer>", f"{name}.", f'It is "{name}".')
        return rng.choice(wrong) if rng.random() < WRONG_FORMAT / 2 else name
    answer = f"<answer>{name}</answer>"
    text = thought(concept, names, colours, rng)
    if method == "answer_first":
        right = f"{answer} <reason>{text}</reason>"
        wrong = (answer, f"<reason>{text}</reason> {answer}", f"{name} <reason>{text}</reason>")
    elif method == "adaptive" and rng.random() < 0.5:
        right, wrong = answer, (name, f"{answer}.")
    else:
        right = f"<think>{text}</think> {answer}"
        wrong = (answer, f"<think>{text}</think> {name}", f"{right}\n", f"<think>{text} {answer}")
    return rng.choice(wrong) if rng.random() < WRONG_FORMAT else right


def thought(concept: Concept, names: Sequence[str], colours: Sequence[str], rng: Random) -> str:
    """3 to 20 words on what is seen; most settle on a name, a share SLIP of these on another option."""
    rivals = [name for name in names if name != concept.name and name in concept.near]
    rivals = rivals or [name for name in names if name != concept.name]
    rival = rng.choice(rivals) if rivals else ""
    settled = rival if rival and rng.random() < SLIP else concept.name
    first, second = (colours[0], colours[-1]) if colours else ("grey", "white")
    seen = first if first == second else f"{first} and {second}"
    kind = PHRASES.get(concept.kind, f"a {concept.kind}")
    plain = (
        f'It is "{settled}".',
        f'This looks like "{settled}".',
        f'It is {seen}: "{settled}".',
        f'I see {seen}, and the outline is that of "{settled}".',
        f'The photo shows {kind}. It is {seen}, so it may be "{settled}".',
        f'The photo has {seen} parts. It is {kind} and looks most like "{settled}".',
        f"The colours are {seen}.",
        f"It is {kind}.",
        f"I see {kind} in {seen}.",
    )
    compared = (
        f'It could be "{rival}" or "{concept.name}". The colours are {seen}, so "{settled}".',
        f'Not "{rival}", it is {seen}, like "{concept.name}".',
        f'Maybe "{rival}", maybe "{concept.name}".',
    )
    return rng.choice((*plain, *compared) if rival and settled != rival else plain)


def reading_row(everything: Sequence[str], near: Sequence[str], size: int, rng: Random) -> Row:
    """A question about the list alone; the picture does not help."""
    pool = near if len(near) >= size and rng.random() < 0.5 else everything
    names = rng.sample(list(pool), min(size, len(pool)))
    place = rng.randrange(len(names))
    task = rng.randrange(6)
    if task == 0:
        ordinals = ("first", "second", "third")
        place = min(place, 2)
        question, answer = f"Which name is {ordinals[place]} in the list?", names[place]
    elif task == 1:
        question, answer = "Which name is last in the list?", names[-1]
    elif task == 2 and place > 0:
        question, answer = f'Which name comes after "{names[place - 1]}"?', names[place]
    elif task == 3:
        question, answer = f'Which name is "{names[place]}"?', names[place]
    else:
        question, answer = "Which names are in the list?", ", ".join(names)  # every name is copied
    return Row(prompts.user_text("no_thinking", names, question), answer)


def choose_method(rng: Random) -> Method:
    """No-thinking and thinking prompts eight times in ten, the other two methods' in the rest."""
    return rng.choices(METHODS, weights=[{"thinking": 4, "no_thinking": 4}.get(m, 1) for m in METHODS])[0]


def tokenizer_texts(everything: Sequence[str], class_names: Sequence[str]) -> list[str]:
    """Texts for `build_tokenizer`: the words of prompts, thoughts and class names become one token each."""
    rng = Random(0)
    some = [
        Concept(name, kind, prompts.QUESTION, ())
        for name, kind in zip(class_names, KINDS.values(), strict=False)
    ]
    texts = [
        prompts.user_text(method, names, question, wording)
        for method in METHODS
        for names in ([], ["a", "b"])
        for question in (prompts.QUESTION, *QUESTIONS.values())
        for wording in ("training", "authors_test")
    ]
    for concept in some * 30:
        texts.append(reply(concept, ["x", "y"], rng.sample(list(PALETTE), 2), choose_method(rng), rng))
        texts.append(reading_row(["x", "y", "z"], (), 3, rng).user)
    texts += [prompts.OPEN_QUESTION.format(kind=kind) for kind in KINDS.values()]
    system = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nassistant\n"
    return [*(texts + [system] * 8) * 8, *everything, *list(class_names) * 12]

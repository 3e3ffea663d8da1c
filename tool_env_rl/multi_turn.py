"""The second mode: whole episodes inside RL, end to end, tool tokens masked (sheet §8; MatchTIR's setting).

A completion is the rest of the episode: turns that the model sampled and, between them, tool results that it
only reads (`env_mask` 0: no loss, no advantage). Its reward is the sum of its turns' rewards of §2.6 (D6), so
that both algorithms stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from shared.rollouts import Sampling, Session
from tool_env_rl.episodes import run_calls, stop_ids
from tool_env_rl.protocol import (
    apply_results,
    count_unsolved,
    parse_response,
    render_prompt,
    render_tool_results,
)
from tool_env_rl.rewards import turn_reward

if TYPE_CHECKING:
    from tool_env_rl.trainer import ToolGRPO


def rollout(prompts: list[str], trainer: ToolGRPO) -> dict[str, list[Any]]:
    """TRL's `rollout_func`: sampled and read tokens in turn; logprobs of read tokens are 0 and never used."""
    args, algo, tokenizer = trainer.args, trainer.algo, trainer.processing_class
    ids = tokenizer(prompts, add_special_tokens=False)["input_ids"]
    states = [trainer.states[i] for i in trainer.rows]
    session = Session(
        trainer.model_wrapped,
        ids,
        sampling=Sampling(int(args.max_completion_length or 0), args.temperature),
        stop_ids=stop_ids(trainer.model, tokenizer),
    )
    tokens: list[list[int]] = [[] for _ in ids]
    logprobs: list[list[float]] = [[] for _ in ids]
    masks: list[list[int]] = [[] for _ in ids]
    rewards = [0.0] * len(ids)
    unsolved = [state.unsolved_set for state in states]
    total = [count_unsolved(s.unsolved_set) / (1 - s.solve_rate) if s.solve_rate < 1 else 1 for s in states]
    still_open = list(range(len(ids)))
    for turn_number in range(algo.max_turns):
        sampled = session.generate()
        texts = tokenizer.batch_decode(sampled.completion_ids, skip_special_tokens=True)
        turns = [parse_response(text, drop_thoughts=algo.drop_thoughts) for text in texts]
        asked = [(states[i].codes, turn.calls) for i, turn in zip(still_open, turns, strict=True)]
        results = run_calls(asked, trainer.sandbox)
        going: list[int] = []  # positions in this turn
        replies: list[list[int]] = []
        for position, (i, text, turn) in enumerate(zip(still_open, texts, turns, strict=True)):
            outputs = [result.output for result in results[position]]
            rewards[i] += turn_reward(
                text,
                executed=outputs,
                unsolved=unsolved[i],
                solve_rate=1 - count_unsolved(unsolved[i]) / total[i],
                answer=states[i].answer,
                kind=algo.reward,
                strict=algo.strict,
                echo_guard=algo.echo_guard,
                drop_thoughts=algo.drop_thoughts,
            )
            unsolved[i], _ = apply_results(
                unsolved[i], turn.calls, outputs, strict=algo.strict, echo_guard=algo.echo_guard
            )
            new = sampled.completion_ids[position]
            tokens[i] += new
            logprobs[i] += sampled.logprobs[position]
            masks[i] += [1] * len(new)
            if turn.calls and sampled.finished[position] and turn_number + 1 < algo.max_turns:
                reply = reply_ids(tokenizer, outputs, trainer.thinking)
                tokens[i] += reply
                logprobs[i] += [0.0] * len(reply)
                masks[i] += [0] * len(reply)
                going.append(position)
                replies.append(reply)
        still_open = [still_open[position] for position in going]
        if not still_open:
            break
        session.keep(going)
        session.extend(replies)
    return {
        "prompt_ids": ids,
        "completion_ids": tokens,
        "logprobs": logprobs,
        "env_mask": masks,
        "reward": rewards,
    }


def reply_ids(tokenizer: Any, outputs: Sequence[str], thinking: bool | None) -> list[int]:
    """What the chat template puts between a turn's end token and the next turn: results, and the prompt."""
    said: list[dict[str, Any]] = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "?"}]
    before = tokenizer.apply_chat_template(said, tokenize=False).rstrip()
    after = render_prompt(tokenizer, [*said, *render_tool_results(outputs)], [], thinking=thinking)
    if not after.startswith(before):
        raise ValueError(
            "the chat template rewrites earlier turns when tool results follow, so a running episode cannot "
            "be extended; use --algo.mode single_turn"
        )
    return tokenizer(after[len(before) :], add_special_tokens=False)["input_ids"]

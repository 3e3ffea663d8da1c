"""The rollout engine against `model.generate`, a fresh forward pass and the softmax.

Greedy tokens and log-probabilities; sampling frequencies; prefix, stops, leaving rows, seeds and batching;
several turns; training mode and wrapped models; refusals; TRL's trainer.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from scipy.stats import chisquare
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)
from trl import GRPOConfig, GRPOTrainer

from shared import decoding, rollouts
from shared.rollouts import Sampling, Session, generate, trl_rollout_func
from shared.tiny import tiny_causal_lm, word_tokenizer

VOCABULARY = 40
PROMPTS = [[5, 6, 7, 8, 9, 10, 11], [12, 13], [14, 15, 16, 17, 18], [19]]  # different lengths: left padding
GREEDY = Sampling(max_new_tokens=20, temperature=0)


def build(kind: str):
    """A tiny model with weights large enough that its greedy output does not repeat one token."""
    torch.manual_seed(0)
    sizes = {
        "vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
        "intermediate_size": 48, "max_position_embeddings": 128,
        "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    if kind == "gpt2":  # another architecture: the general path
        sizes = {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}
        model = GPT2LMHeadModel(
            GPT2Config(**sizes, pad_token_id=0, eos_token_id=2, tie_word_embeddings=False)
        )
    elif kind == "qwen2":  # grouped heads and biases
        model = Qwen2ForCausalLM(Qwen2Config(**sizes, num_key_value_heads=2))
    elif kind == "sliding":  # a window shorter than the sequences
        window = {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 0}
        model = Qwen2ForCausalLM(Qwen2Config(**sizes, num_key_value_heads=2, **window))
    else:
        model = LlamaForCausalLM(LlamaConfig(**sizes, num_key_value_heads=4))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(6) if parameter.ndim > 1 else parameter.add_(torch.randn_like(parameter) / 5)
    return model.eval()


@pytest.fixture(scope="module")
def llama():
    return build("llama")


def reference(model, prompts, steps, stop_id=2):
    """Greedy completions of model.generate, cut after the first stop token."""
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    out = model.generate(
        input_ids=ids,
        attention_mask=mask,
        max_new_tokens=steps,
        do_sample=False,
        pad_token_id=0,
        eos_token_id=stop_id,
    )
    rows = out[:, width:].tolist()
    return [row[: row.index(stop_id) + 1] if stop_id in row else row for row in rows]


def fresh_logprobs(model, prompt, completion, temperature=1.0):
    with torch.no_grad():
        logits = model(torch.tensor([prompt + completion])).logits[0].float() / temperature
    return logits.log_softmax(-1)[len(prompt) - 1 : -1].gather(1, torch.tensor(completion)[:, None])[:, 0]


def assert_logprobs_are_fresh(model, result, temperature=1.0):
    for prompt, completion, logprobs in zip(
        result.prompt_ids, result.completion_ids, result.logprobs, strict=True
    ):
        expected = fresh_logprobs(model, prompt, completion, temperature)
        np.testing.assert_allclose(logprobs, expected.numpy(), atol=1e-4)


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gpt2", "sliding"])
def test_greedy_output_and_logprobs_equal_the_models_own(kind):
    model = build(kind)
    expected = reference(model, PROMPTS, 20)
    assert len({token for row in expected for token in row}) > 5  # a constant output would prove little
    result = generate(model, PROMPTS, sampling=GREEDY, stop_ids=[2])
    assert result.completion_ids == expected
    assert result.prompt_ids == PROMPTS
    assert_logprobs_are_fresh(model, result)


@pytest.mark.parametrize(
    ("kind", "fast"), [("llama", True), ("qwen2", True), ("gpt2", False), ("sliding", False)]
)
def test_which_models_take_the_fast_step(kind, fast):
    model = build(kind)
    assert decoding._is_plain_llama(model) is fast
    model.register_forward_hook(lambda *_: None)
    assert not decoding._is_plain_llama(model)


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_fast_step_and_general_path_agree(kind, monkeypatch):
    model, sampling = build(kind), Sampling(16, temperature=0.8)
    fast = generate(model, PROMPTS, samples=3, sampling=sampling, generator=torch.Generator().manual_seed(1))
    monkeypatch.setattr(decoding, "_is_plain_llama", lambda model: False)
    slow = generate(model, PROMPTS, samples=3, sampling=sampling, generator=torch.Generator().manual_seed(1))
    assert fast.completion_ids == slow.completion_ids
    assert_logprobs_are_fresh(model, fast, temperature=0.8)
    np.testing.assert_allclose(fast.logprobs, slow.logprobs, atol=1e-4)


@pytest.mark.parametrize(
    "settings",
    [{}, {"temperature": 0.5}, {"top_k": 5}, {"top_p": 0.7}, {"top_k": 12, "top_p": 0.8, "temperature": 2.0}],
)
def test_sampling_frequencies_follow_the_softmax(settings):
    sampling, draws = Sampling(1, **settings), 20_000
    logits = torch.randn(VOCABULARY, generator=torch.Generator().manual_seed(3)) * 2
    uniforms = torch.rand(draws, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    tokens, logprobs = rollouts._sample(logits.expand(draws, -1), sampling, uniforms)
    probs = (logits.double() / sampling.temperature).softmax(-1).numpy()
    np.testing.assert_allclose(logprobs.numpy(), np.log(probs)[tokens], atol=1e-5)
    kept = slow_filter(probs, sampling)
    counts = np.bincount(tokens.numpy(), minlength=VOCABULARY)
    assert counts[kept == 0].sum() == 0
    assert_frequencies(counts, kept)


def assert_frequencies(counts, probs):
    """Chi-square test; words expected fewer than 5 times (the test needs 5) are one class."""
    expected = probs * counts.sum()
    rare = expected < 5
    observed = [*counts[~rare], *([counts[rare].sum()] if expected[rare].sum() > 1 else [])]
    expected = np.array([*expected[~rare], *([expected[rare].sum()] if expected[rare].sum() > 1 else [])])
    assert chisquare(observed, expected * sum(observed) / expected.sum()).pvalue > 1e-3


def slow_filter(probs, sampling):
    """Top-k, then top-p, word by word: the textbook's loop."""
    order = sorted(range(len(probs)), key=lambda word: -probs[word])[: sampling.top_k or None]
    total, kept = sum(probs[word] for word in order), np.zeros_like(probs)
    for word in order:
        if kept.sum() >= sampling.top_p * total:
            break
        kept[word] = probs[word]
    return kept / kept.sum()


def test_first_tokens_of_a_model_follow_its_softmax(llama):
    """End to end: the samples of one prompt, prefilled once, are independent draws from the model."""
    result = generate(
        llama, [PROMPTS[0]], samples=4000, sampling=Sampling(1), generator=torch.Generator().manual_seed(0)
    )
    with torch.no_grad():
        probs = llama(torch.tensor([PROMPTS[0]])).logits[0, -1].softmax(-1).double().numpy()
    counts = np.bincount([row[0] for row in result.completion_ids], minlength=VOCABULARY)
    assert_frequencies(counts, probs)


def test_samples_are_prompt_major_and_each_prompt_is_prefilled_once(llama, monkeypatch):
    fed = []
    plain = decoding.forward
    monkeypatch.setattr(
        rollouts, "forward", lambda m, ids, *rest: fed.append(len(ids)) or plain(m, ids, *rest)
    )
    result = generate(llama, PROMPTS, samples=3, sampling=Sampling(4))
    assert result.prompt_ids == [prompt for prompt in PROMPTS for _ in range(3)]
    repeated = [prompt for prompt in PROMPTS for _ in range(3)]
    generate(llama, repeated, sampling=Sampling(4))
    assert fed == [len(PROMPTS)] * 2


def test_forced_prefix_counts_as_prompt(llama):
    plain = generate(llama, [[*prompt, 20, 21] for prompt in PROMPTS], sampling=GREEDY)
    forced = generate(llama, PROMPTS, sampling=GREEDY, forced_prefix=[20, 21])
    assert forced == plain
    assert forced.prompt_ids[1] == [12, 13, 20, 21]


def test_stop_tokens_end_rows_that_then_leave_without_changing_the_others(llama, monkeypatch):
    sampling, batch = Sampling(60), []
    every = [3, 4, 5, 2]
    kwargs = {"samples": 8, "sampling": sampling, "stop_ids": every, "on_token": batch.append}
    result = generate(llama, PROMPTS, generator=torch.Generator().manual_seed(0), **kwargs)
    assert batch[-1] < batch[0] == 32  # the batch has become smaller
    for completion, finished in zip(result.completion_ids, result.finished, strict=True):
        ends = [i for i, token in enumerate(completion) if token in every]
        assert finished is bool(ends)
        assert ends == ([len(completion) - 1] if finished else [])
        assert finished or len(completion) == 60
    assert_logprobs_are_fresh(llama, result)
    monkeypatch.setattr(rollouts, "KEEP_ABOVE", 0.0)  # nobody leaves
    assert generate(llama, PROMPTS, generator=torch.Generator().manual_seed(0), **kwargs).completion_ids == (
        result.completion_ids
    )


def test_seed_decides_the_output_and_batching_does_not(llama, monkeypatch):
    def run(seed, **changes):
        generator = torch.Generator().manual_seed(seed)
        return generate(
            llama, PROMPTS, samples=5, sampling=Sampling(12), generator=generator, **changes
        ).completion_ids

    first = run(1)
    assert run(1) == first
    assert run(2) != first
    assert run(1, max_rows=3) == first
    torch.manual_seed(7)
    from_global = generate(llama, PROMPTS, sampling=Sampling(12)).completion_ids
    torch.manual_seed(7)
    assert generate(llama, PROMPTS, sampling=Sampling(12)).completion_ids == from_global
    threads = torch.get_num_threads()
    monkeypatch.setattr(rollouts, "ROWS_PER_THREAD", 4)
    try:
        torch.set_num_threads(3)
        assert run(1) == first  # one batch per thread
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gpt2"])
def test_turns_with_tokens_from_outside_equal_a_fresh_start(kind):
    """Greedy rows of different lengths, some stopped: each turn is what the whole context would give."""
    model = build(kind)
    stop = reference(model, PROMPTS, 20, stop_id=-1)[0][3]  # ends at least one row early
    session = Session(model, PROMPTS, sampling=Sampling(10, temperature=0), stop_ids=[stop])
    first = session.generate()
    assert len({len(row) for row in first.completion_ids}) > 1
    contexts = [prompt + row for prompt, row in zip(PROMPTS, first.completion_ids, strict=True)]
    session.extend([[21, 22, 23], [], [24], [25, 26]])
    contexts = [c + new for c, new in zip(contexts, [[21, 22, 23], [], [24], [25, 26]], strict=True)]
    second = session.generate()
    assert second.prompt_ids == contexts
    assert second.completion_ids == reference(model, contexts, 10, stop)
    assert_logprobs_are_fresh(model, second)
    session.keep([2, 0])
    session.extend([[27], [28, 29]])
    third = session.generate(last=True)
    contexts = [contexts[i] + second.completion_ids[i] for i in (2, 0)]
    contexts = [contexts[0] + [27], contexts[1] + [28, 29]]
    assert third.completion_ids == reference(model, contexts, 10, stop)
    assert_logprobs_are_fresh(model, third)


def test_turns_feed_only_new_tokens(llama, monkeypatch):
    widths = []
    plain = decoding.forward
    monkeypatch.setattr(
        rollouts, "forward", lambda m, ids, *rest: widths.append(ids.shape[1]) or plain(m, ids, *rest)
    )
    session = Session(llama, PROMPTS, 2, sampling=Sampling(5))
    session.generate()
    session.extend([[21, 22]] * 8)
    session.generate()
    assert widths == [7, 3]  # the longest prompt; then the last sampled token and the two new ones


def test_training_mode_and_dropout_are_off_and_restored():
    model = build("gpt2").train()
    model.transformer.h[0].eval()
    model.gradient_checkpointing_enable()
    expected = reference(build("gpt2"), PROMPTS, 20)
    assert generate(model, PROMPTS, sampling=GREEDY, stop_ids=[2]).completion_ids == expected
    assert model.training
    assert not model.transformer.h[0].training
    assert model.is_gradient_checkpointing
    model(torch.tensor([[1, 2, 3]])).logits.sum().backward()  # nothing of the inference mode is left in it


def test_peft_adapters_stay_active_and_ddp_is_unwrapped():
    wrapped = get_peft_model(build("llama"), LoraConfig(r=4, target_modules=["q_proj", "v_proj"]))
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    expected = reference(wrapped, PROMPTS, 20)
    assert expected != reference(build("llama"), PROMPTS, 20)

    class Distributed(torch.nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module

    assert generate(Distributed(wrapped), PROMPTS, sampling=GREEDY, stop_ids=[2]).completion_ids == expected


def test_what_cannot_work_is_refused(llama):
    with pytest.raises(ValueError, match="prompt is empty"):
        generate(llama, [[5], []], sampling=GREEDY)
    prompt_tuning = get_peft_model(
        build("llama"), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    )
    with pytest.raises(ValueError, match="virtual tokens"):
        generate(prompt_tuning, PROMPTS, sampling=GREEDY)
    model = build("llama")
    model.config.layer_types = ["linear_attention", "full_attention"]
    with pytest.raises(ValueError, match="linear_attention"):
        generate(model, PROMPTS, sampling=GREEDY)
    with pytest.raises(ValueError, match="sliding window"):
        Session(build("sliding"), PROMPTS, sampling=GREEDY).extend([[]] * 4)
    assert generate(llama, [], sampling=GREEDY).completion_ids == []


@pytest.mark.parametrize(
    "bad", [{"max_new_tokens": 0}, {"temperature": -1.0}, {"top_p": 0.0}, {"top_p": 1.1}, {"top_k": -1}]
)
def test_bad_sampling_settings_are_refused(bad):
    with pytest.raises(ValueError, match="max_new_tokens >= 1"):
        Sampling(**({"max_new_tokens": 4} | bad))


@pytest.mark.parametrize("conversational", [True, False])
def test_trl_trainer_takes_one_step_with_these_rollouts(tmp_path, monkeypatch, conversational):
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    tokenizer = word_tokenizer([f"w{i}" for i in range(20)] + ["[Easy]"])
    model = tiny_causal_lm(tokenizer, hidden=16, layers=1, heads=2, intermediate=16, seed=0)
    texts = ["w1 w2 w3", "w4"]
    prompts = [[{"role": "user", "content": text}] for text in texts] if conversational else texts
    seen = []

    def reward(prompts, completions, completion_ids, **kwargs):
        seen.append((prompts, completion_ids))
        return [float(len(set(ids))) for ids in completion_ids]

    plain = trl_rollout_func(forced_prefix=tokenizer("[Easy]").input_ids)
    returned = []
    config = GRPOConfig(
        output_dir=str(tmp_path), per_device_train_batch_size=8, num_generations=4, max_completion_length=6,
        max_steps=1, temperature=0.9, top_k=10, learning_rate=1e-3, use_cpu=True, bf16=False,
        save_strategy="no", report_to=[],
    )  # fmt: skip
    trainer = GRPOTrainer(
        model,
        reward,
        args=config,
        train_dataset=Dataset.from_dict({"prompt": prompts}),
        processing_class=tokenizer,
        rollout_func=lambda prompts, trainer: returned.append(plain(prompts, trainer)) or returned[-1],
    )
    before = model.lm_head.weight.detach().clone()
    trainer.train()
    (out,) = returned
    assert len(out["completion_ids"]) == 8
    assert seen[0][1] == out["completion_ids"]
    easy = tokenizer("[Easy]").input_ids[0]
    assert all(ids[-1] == easy for ids in out["prompt_ids"])
    assert not torch.equal(model.lm_head.weight, before)
    for completion, logprobs in zip(out["completion_ids"], out["logprobs"], strict=True):
        assert len(completion) == len(logprobs) <= 6
        assert max(logprobs) <= 0

"""The supervised baseline in both forms, on TRL's SFTTrainer.

| form       | prompt                                     | loss                                    |
|------------|--------------------------------------------|-----------------------------------------|
| completion | as in RL: image, then text (the paper)     | the answer's tokens and its end token   |
| full_text  | system turn with the tag instruction, text | every token but padding and image       |
|            | before image, an empty assistant header    | placeholders: the class list, the       |
|            | after the answer (authors' `sft.py`, D5)   | system turn and the extra header too    |

The second explains a collapse on long lists: most of its loss is on shuffled names that nothing can predict.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from transformers import PrinterCallback
from trl import SFTConfig, SFTTrainer

from cls_rl import encoding, prompts
from cls_rl.callbacks import FiniteLossMixin, ResumeMixin
from cls_rl.config import Algo
from cls_rl.data import Prompts, Query
from cls_rl.encoding import Encoded

IGNORED = -100


def full_text_messages(query: Query) -> list[dict[str, Any]]:
    """The authors' conversation: our thinking instruction stands for their system text (same content)."""
    problem = prompts.problem(query.options, query.question)
    return [
        {"role": "system", "content": prompts.SUFFIXES["thinking"]},
        {"role": "user", "content": [{"type": "text", "text": problem}, {"type": "image"}]},
        {"role": "assistant", "content": prompts.solution(query.label)},
    ]


class Examples:
    """Training examples as model inputs with labels (B, L); IGNORED where there is no loss."""

    def __init__(self, source: Prompts, algo: Algo) -> None:
        self.source, self.algo = source, algo
        self.processor = source.bundle.processor

    def collate(self, rows: Sequence[dict[str, int]]) -> dict[str, Tensor]:
        """The data collator: `rows` name the queries."""
        chosen = [row["row"] for row in rows]
        full = self.algo.objective == "sft_full_text"
        found = self._full_text(chosen) if full else self._completion(chosen)
        examples = [example for example, _ in found]
        image, pad = self.processor.image_token_id, self.processor.tokenizer.pad_token_id
        batch = encoding.collate(examples, pad, image)
        ids = batch["input_ids"]
        scored = batch["attention_mask"].bool() & (ids != image)
        starts = torch.tensor([ids.shape[1] - len(e.ids) + prompt for e, prompt in found])
        scored &= torch.arange(ids.shape[1]) >= starts[:, None]
        return {**batch, "labels": ids.masked_fill(~scored, IGNORED)}

    def _completion(self, chosen: Sequence[int]) -> list[tuple[Encoded, int]]:
        """Each example with the number of its prompt's tokens, which have no loss."""
        tokenizer, found = self.processor.tokenizer, []
        for row, prompt in zip(chosen, self.source.encode(chosen), strict=True):
            target = prompts.sft_target(self.algo.method, self.source.queries[row].label)
            ids = tokenizer(target, add_special_tokens=False)["input_ids"]
            whole = [*prompt.ids, *ids, tokenizer.eos_token_id]
            found.append((Encoded(whole, prompt.pixels, prompt.grid), len(prompt.ids)))
        return found

    def _full_text(self, chosen: Sequence[int]) -> list[tuple[Encoded, int]]:
        queries = [self.source.queries[row] for row in chosen]
        texts = [
            self.processor.apply_chat_template(
                full_text_messages(query), add_generation_prompt=True, tokenize=False
            )
            for query in queries
        ]
        pictures = [self.source.picture(query.image, self.source.bundle.side) for query in queries]
        examples = encoding.encode(self.processor, texts, pictures, self.source.max_tokens)
        return [(example, 0) for example in examples]


class ClassificationSFT(FiniteLossMixin, ResumeMixin, SFTTrainer):
    """TRL's SFTTrainer on `source`; the order of examples is a function of `args.seed`."""

    def __init__(self, source: Prompts, algo: Algo, args: SFTConfig, **kwargs: Any) -> None:
        if algo.objective == "rl":
            raise ValueError(
                "algo.objective='rl' is no supervised baseline; use sft_completion or sft_full_text"
            )
        super().__init__(
            model=source.bundle.model,
            args=args,
            data_collator=Examples(source, algo).collate,
            train_dataset=Dataset.from_dict({"row": list(range(len(source)))}),
            processing_class=source.bundle.processor,
            **kwargs,
        )
        self.remove_callback(PrinterCallback)  # RunCallback prints the progress

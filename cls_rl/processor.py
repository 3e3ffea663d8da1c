"""Tokenizer and processor of the small model: Qwen's special tokens and chat template, images by Pillow.

Qwen's own processor wants a video processor and that one torchvision; `ImageTextProcessor` takes images only
and is otherwise Qwen2.5-VL's. It is rebuilt from its folder by `load_processor`, not by AutoProcessor.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.processing_utils import ProcessorMixin

PAD, EOS, IMAGE = "<|endoftext|>", "<|im_end|>", "<|image_pad|>"
VISION_TOKENS = ("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", IMAGE, "<|video_pad|>")
SPECIALS = (PAD, "<|im_start|>", EOS, *VISION_TOKENS)

# Qwen2.5-VL's template without its video part.
CHAT_TEMPLATE = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}<|im_start|>system\n"
    "You are a helpful assistant.<|im_end|>\n{% endif %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}<|im_end|>\n"
    "{% else %}{% for content in message['content'] %}"
    "{% if content['type'] == 'image' or 'image' in content or 'image_url' in content %}"
    "<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif 'text' in content %}{{ content['text'] }}{% endif %}{% endfor %}"
    "<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# A mark keeps the space after it ("[ ", ", ", "> ", '"'), a later word of a name the one before it: a name is
# the same tokens in the list, in a tag, in quotation marks and as the whole answer, and can be copied.
WORDS = "|".join(
    (
        r" ?</?\p{L}+> ?",  # a tag
        r" ?[\[(] ?|[,:;] ?| ?[\"“]",
        r" ?[\p{L}\p{M}'’]+| ?\p{N}| ?[^\s\p{L}\p{N},:;\[(\"“<]+| ?<|\s+",
    )
)


class ImageTextProcessor(ProcessorMixin):
    """`processor(text=[...], images=[...])`; the one `<|image_pad|>` per image becomes one per token."""

    return_mm_token_type_ids = True

    def __init__(
        self,
        image_processor: Qwen2VLImageProcessorPil,
        tokenizer: PreTrainedTokenizerFast,
        chat_template: str | None = None,
    ) -> None:
        self.image_token, self.video_token = IMAGE, "<|video_pad|>"
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        self.video_token_id = tokenizer.convert_tokens_to_ids(self.video_token)
        super().__init__(image_processor, tokenizer, chat_template=chat_template or tokenizer.chat_template)

    def replace_image_token(self, image_inputs: dict[str, Any], image_idx: int, **kwargs: Any) -> str:
        """One image token per merged patch of image `image_idx`."""
        patches = int(image_inputs["image_grid_thw"][image_idx].prod())
        return self.image_token * (patches // self.image_processor.merge_size**2)

    @property
    def model_input_names(self) -> list[str]:
        return [*super().model_input_names, "mm_token_type_ids"]


def build_tokenizer(texts: Iterable[str], size: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE of at most `size` tokens, trained on `texts`, plus Qwen's special tokens; pads left.

    The tags `<think>`, `<answer>`, `<reason>` are ordinary tokens, which decoding keeps. The same texts give
    the same tokenizer. ValueError if `size` has no room for the specials and 256 bytes.
    """
    if size < 256 + len(SPECIALS):
        raise ValueError(
            f"size={size} is below {256 + len(SPECIALS)}: special tokens and all bytes; raise it"
        )
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(SPECIALS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        eos_token=EOS,
        additional_special_tokens=[token for token in SPECIALS if token not in (PAD, EOS)],
        chat_template=CHAT_TEMPLATE,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )


def build_processor(
    tokenizer: PreTrainedTokenizerFast, patch_size: int, merge_size: int, side: int
) -> ImageTextProcessor:
    """Processor whose pictures have `side` x `side` pixels' area at most and at least; ratio kept.

    ValueError if `side` is no multiple of a merged patch.
    """
    if side % (patch_size * merge_size):
        fit = patch_size * merge_size
        raise ValueError(f"side={side} is no multiple of patch x merge = {fit}; use {-(-side // fit) * fit}")
    image_processor = Qwen2VLImageProcessorPil(
        patch_size=patch_size,
        merge_size=merge_size,
        temporal_patch_size=2,
        size={"shortest_edge": side * side, "longest_edge": side * side},
    )
    return ImageTextProcessor(image_processor, tokenizer)


def save_processor(processor: ImageTextProcessor, folder: Path) -> None:
    """Tokenizer with template, and image processor, as `load_processor` reads them."""
    processor.tokenizer.save_pretrained(folder)
    processor.image_processor.save_pretrained(folder)


def load_processor(folder: Path) -> ImageTextProcessor:
    """The processor that `save_processor` wrote."""
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    return ImageTextProcessor(Qwen2VLImageProcessorPil.from_pretrained(folder), tokenizer)


def vision_token_ids(tokenizer: Any) -> list[int]:
    """Ids that no sampled reply may contain: every image or video token the tokenizer has."""
    vocabulary = tokenizer.get_vocab()
    return sorted(vocabulary[token] for token in VISION_TOKENS if token in vocabulary)

"""The tiny model's tokenizer: integers and words as single tokens, bytes for everything else.

A box of four numbers is four tokens, since an integer below 512 also has tokens that include the
punctuation before it in a list of boxes: ``],[12`` ``,38`` ``,44`` ``,130``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
MAX_INTEGER = 1000
"""Integers up to this are single tokens; their ids are their values."""
JOINED = 512
"""Integers below this also have tokens that include the punctuation before them."""
INTEGER_ROLES = {
    "": range(MAX_INTEGER + 1),
    ",": range(MAX_INTEGER + 1, MAX_INTEGER + 1 + JOINED),
    "],[": range(MAX_INTEGER + 1 + JOINED, MAX_INTEGER + 1 + 2 * JOINED),
}
"""The punctuation that is joined with an integer -> the ids of 0, 1, 2, ... in that role."""
_PIECES = (
    *(f"<{slash}{tag}>" for tag in ("think", "look", "answer") for slash in ("", "/")),
    "[[",
    "]]",
    "],[",
    "[]",
    "assistant",
    "user",
    "system",
)
_BELOW_JOINED = r"(?:0|[1-9][0-9]?|[1-4][0-9]{2}|50[0-9]|51[01])(?![0-9])"
_PATTERN = (
    rf"\],\[{_BELOW_JOINED}|,{_BELOW_JOINED}|{MAX_INTEGER}|[0-9]{{1,3}}|</?(?:think|look|answer)>|\]\]|\[\[|\],\[|\[\]"
    r"| ?[A-Za-z]+|[^A-Za-z0-9]"
)
_CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.content is string %}{{ message.content }}{% else %}"
    "{% for part in message.content %}{% if part.type == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def build_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Build a lossless tokenizer whose words come from the texts the model will read.

    Any text survives encoding and decoding: words that are not in the vocabulary fall back to
    bytes.

    Args:
        texts: prompts, messages and demonstrations; their words become single tokens.

    Returns:
        A fast tokenizer with chat template; the ids of integers are those of ``INTEGER_ROLES``.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = sorted({word for text in texts for word in re.findall(r" ?[A-Za-z]+", text)})
    vocabulary: dict[str, int] = {}
    integers = [f"{before}{n}" for before, ids in INTEGER_ROLES.items() for n in range(len(ids))]
    for token in (
        *integers,
        *alphabet,
        *_PIECES,
        *(word.replace(" ", "Ġ") for word in words),
    ):
        vocabulary.setdefault(token, len(vocabulary))
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[], ignore_merges=True))
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(list(SPECIAL_TOKENS))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        additional_special_tokens=[
            t for t in SPECIAL_TOKENS if t not in ("<|endoftext|>", "<|im_end|>")
        ],
        model_max_length=4096,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = _CHAT_TEMPLATE
    return tokenizer

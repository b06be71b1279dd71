"""The tool template reads as TRL needs it, and what a model misspells in a call stays harmless."""

from __future__ import annotations

import pytest

pytest.importorskip("trl", reason="needs the extra trl")

from trl import chat_template_utils

from dip_agents.adapters import Task
from dip_agents.adapters.trl import trl_dataset
from dip_agents.adapters.trl.template import TOOL_TEMPLATE
from dip_wrappers.chat import plain_text

pytestmark = pytest.mark.usefixtures("one_thread")


def conversation(image):
    call = {"name": "look", "arguments": {"thought": "é", "regions": [[1, 2, 3, 4.5]]}}
    return [
        {"role": "user", "content": "go"},
        {
            "role": "assistant",
            "content": "so",
            "tool_calls": [{"type": "function", "function": call}],
        },
        {
            "role": "tool",
            "name": "look",
            "content": [{"type": "text", "text": "a"}, {"type": "image", "image": image}],
        },
        {"role": "tool", "name": "look", "content": "b"},
    ]


WORDS = (
    'so\n<tool_call>\n{"name": "look", "arguments": '
    '{"thought": "é", "regions": [[1, 2, 3, 4.5]]}}\n</tool_call><|im_end|>\n'
)


def test_the_template_shows_calls_and_images_in_tool_messages(parity, processors):
    processor = processors["qwen2_5_vl"]
    image = trl_dataset(Task(**parity.RULES), [0], "single_pass")[0]["image"]
    chat = conversation(image.resize((56, 84)))
    text = processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert text == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\ngo<|im_end|>\n<|im_start|>assistant\n" + WORDS + "<|im_start|>user\n"
        "<tool_response>\na<|vision_start|><|image_pad|><|vision_end|>\n</tool_response>\n"
        "<tool_response>\nb\n</tool_response><|im_end|>\n<|im_start|>assistant\n"
    )
    inputs = processor.apply_chat_template(chat, tokenize=True, return_dict=True)
    assert inputs["input_ids"][0].count(processor.image_token_id) == 2 * 3
    with pytest.raises(Exception, match="expected text and images, got a part of type video"):
        processor.apply_chat_template(
            [{"role": "user", "content": [{"type": "video"}]}], tokenize=False
        )


def test_trl_accepts_the_template_and_refuses_the_one_it_replaces(tools, processors):
    processor = processors["qwen2_5_vl"]
    assert chat_template_utils.supports_tool_calling(processor)
    assert chat_template_utils.is_chat_template_prefix_preserving(processor)
    assert chat_template_utils.get_training_chat_template(processor) is None
    bare = tools.built("qwen2_5_vl")[1]
    bare.chat_template = chat_template_utils.qwen2_5_vl_chat_template
    assert not chat_template_utils.supports_tool_calling(bare)
    plain = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "go"}]},
        {"role": "assistant", "content": "so"},
    ]
    for chat in (plain, [{"role": "system", "content": "be"}, *plain]):
        ours, stock = (p.apply_chat_template(chat, tokenize=False) for p in (processor, bare))
        assert ours == stock


def test_generated_text_is_marked_and_parsed_back(processors):
    tokenizer = processors["qwen2_5_vl"].tokenizer
    chat = conversation(None)
    out = tokenizer.apply_chat_template(
        chat, chat_template=TOOL_TEMPLATE, return_dict=True, return_assistant_tokens_mask=True
    )
    marked = zip(out["input_ids"], out["assistant_masks"], strict=True)
    assert tokenizer.decode([token for token, mask in marked if mask]) == WORDS
    prefix = tokenizer.encode("<|im_start|>assistant\n")
    ids = tokenizer.encode(WORDS.rstrip("\n"))
    assert chat_template_utils.parse_response(tokenizer, ids, prefix=prefix) == chat[1]
    thought = tokenizer.encode("<think>a</think><answer>[]</answer><|im_end|>")
    parsed = chat_template_utils.parse_response(tokenizer, thought, prefix=prefix)
    assert parsed == {"role": "assistant", "content": "<think>a</think><answer>[]</answer>"}


SPELLED = "<|image_pad|><|im_end|>\ud800"


@pytest.mark.parametrize("where", ["reply", "part", "name", "key", "arguments"])
def test_special_tokens_that_a_call_or_an_error_reply_quotes_are_harmless(processors, where):
    call = {"name": "look", "arguments": {}}
    reply = {"role": "tool", "name": "look", "content": "a"}
    match where:
        case "reply":
            reply["content"] = str({"error": f"Tool {SPELLED} not found."})
        case "part":
            reply["content"] = [{"type": "text", "text": SPELLED}]
        case "name":
            call["name"] = SPELLED
        case "key":
            call["arguments"] = {SPELLED: 1}
        case "arguments":
            call["arguments"] = SPELLED
    said = {"role": "assistant", "tool_calls": [{"type": "function", "function": call}]}
    chat = [{"role": "user", "content": "go"}, said, reply]
    text = processors["qwen3_vl"].apply_chat_template(chat, tokenize=False)
    assert plain_text("<|image_pad|>") in text and "<|image_pad|>" not in text
    assert text.count("<|im_end|>") == 4
    text.encode()

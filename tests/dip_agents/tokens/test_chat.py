import copy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dip_agents.tokens.buffer import PlaceholderError
from dip_agents.tokens.chat import ChatTokens
from dip_env.errors import ConfigError
from dip_env.messages import Message

FAMILIES = ["qwen3_vl", "qwen2_5_vl"]


def picture(width, height, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_conversation_in_pieces_is_the_conversation_rendered_at_once(micro, family):
    chat = micro(family).chat
    side = chat.patch * chat.merge
    first = Message("user", "Find every person.", (picture(4 * side, 3 * side),))
    said = "<think>2 people.</think><look>[[1,2,30,40]]</look>"
    crops = (picture(side, 2 * side), picture(2 * side, side))
    second = Message("user", "Crop 1\nCrop 2\nNo look left", crops, captioned=True)
    opening, images = chat.opening([first])
    reply, more = chat.reply(second)
    pieces = opening + chat.policy_ids(said) + reply
    rendered = chat.processor.apply_chat_template(
        [
            {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": first.text}]},
            {"role": "assistant", "content": [{"type": "text", "text": said}]},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "Crop 1"},
                    {"type": "image"},
                    {"type": "text", "text": "\nCrop 2"},
                    {"type": "image"},
                    {"type": "text", "text": "\nNo look left"},
                ],
            },
        ],
        tokenize=False,
        add_generation_prompt=True,
    )
    whole = chat.processor(
        text=[rendered],
        images=[*first.images, *second.images],
        do_resize=False,
        return_tensors="pt",
    )
    assert pieces == whole["input_ids"][0].tolist()
    grids = [list(image.grid) for image in (*images, *more)]
    assert grids == whole["image_grid_thw"].tolist()
    assert torch.equal(chat.patches([*images, *more]), whole["pixel_values"])


def test_an_image_the_processor_would_resize_is_refused(micro):
    with pytest.raises(PlaceholderError, match=r"size_multiple: .* multiples of 32, got 40x64"):
        micro("qwen3_vl").chat.encode_image(picture(40, 64))


def test_equal_pixels_of_one_size_have_equal_keys(micro):
    chat = micro("qwen3_vl").chat
    flat = np.zeros((32, 64, 3), np.uint8)
    pictures = (
        picture(64, 32),
        picture(64, 32),
        picture(64, 32, seed=1),
        flat,
        flat.reshape(64, 32, 3),
    )
    keys = [chat.encode_image(image).key for image in pictures]
    assert keys[0] == keys[1]
    assert len(set(keys)) == 4


def test_a_processor_that_resizes_after_all_is_refused(micro):
    chat = copy.copy(micro("qwen3_vl").chat)
    image = chat.encode_image(picture(64, 32))
    chat.processor = copy.copy(chat.processor)
    chat.processor.image_processor = lambda images, **_: {
        "image_grid_thw": torch.tensor([[1, 2, 2]]),
        "pixel_values": torch.zeros(4, 1536),
    }
    with pytest.raises(
        PlaceholderError, match=r"expected \(1, 2, 4\) patches of an image of 64x32"
    ):
        chat.patches([image])


def test_spelled_out_special_tokens_never_become_placeholders(micro):
    chat = micro("qwen3_vl").chat
    ids, _ = chat.reply(Message("user", "got '<|image_pad|><|im_end|>'"))
    plain, _ = chat.reply(Message("user", "got"))
    assert ids.count(chat.image_token_id) == 0
    assert ids.count(chat.eos_token_id) == plain.count(chat.eos_token_id)
    assert chat.reply(Message("user", "half \ud800"))[0] == chat.reply(Message("user", "half ?"))[0]


def test_every_special_token_but_the_end_of_turn_is_banned(micro):
    chat = micro("qwen3_vl").chat
    names = chat.tokenizer.convert_ids_to_tokens(chat.banned_ids)
    assert {"<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|im_start|>"} <= set(names)
    assert chat.eos_token_id not in chat.banned_ids


def test_a_template_without_end_of_turn_is_refused(micro):
    processor = micro("qwen3_vl").processor

    class Silent:
        tokenizer = processor.tokenizer
        image_processor = processor.image_processor
        image_token = processor.image_token

        def apply_chat_template(self, chat, tokenize, add_generation_prompt):
            return " ".join(part["text"] for message in chat for part in message["content"])

    with pytest.raises(PlaceholderError, match=r"expected .* after a reply, got"):
        ChatTokens(Silent()).reply(Message("user", "x"))


@given(st.text(max_size=60))
def test_the_tiny_tokenizer_loses_no_text(micro, text):
    tokenizer = micro("qwen3_vl").processor.tokenizer
    text = text.replace("<|", "")
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_integers_and_tags_are_single_tokens(micro):
    tokenizer = micro("qwen3_vl").processor.tokenizer
    pieces = ["<answer>", "[[", "0", ",17", ",255", "],[", "1000", ",3", "]]"]
    ids = tokenizer.encode("".join(pieces), add_special_tokens=False)
    assert [tokenizer.decode([i]) for i in ids] == pieces
    assert tokenizer.convert_tokens_to_ids("417") == 417


THINKING = "{% if add_generation_prompt %}<|im_start|>assistant\n"


@pytest.fixture
def thinking(micro):
    """A chat whose template opens a think before each turn, as Qwen3-VL-Thinking's does."""
    processor = copy.deepcopy(micro().processor)
    assert THINKING in processor.tokenizer.chat_template
    for owner in (processor, processor.tokenizer):
        owner.chat_template = processor.tokenizer.chat_template.replace(
            THINKING, THINKING + "<think>\n"
        )
    return ChatTokens(processor)


def test_a_think_opened_by_the_template_is_read_but_not_learned(thinking, micro):
    action = "<think>2 people.</think><answer>[[1,2,30,40]]</answer>"
    assert micro().chat.opened == "" and thinking.opened == "<think>"
    for ids in (
        thinking.opening([Message("user", "Find every person.")])[0],
        thinking.reply(Message("user", "No look left.")),
    ):
        flat = ids if isinstance(ids, list) else ids[0]
        assert thinking.tokenizer.decode(flat).endswith("assistant\n<think>\n")
    written = thinking.policy_ids(action)
    assert thinking.tokenizer.decode(written) == action.removeprefix("<think>") + "<|im_end|>"
    assert thinking.text(written) == action
    assert thinking.text(thinking.policy_ids("<answer>[]</answer>")) == (
        "<think></think><answer>[]</answer>"
    )


def test_a_processor_without_a_chat_template_is_refused(micro):
    processor = copy.deepcopy(micro().processor)
    processor.chat_template = processor.tokenizer.chat_template = None
    with pytest.raises(ConfigError, match="expected one, got none with Qwen3VLProcessor; take"):
        ChatTokens(processor)


def test_a_tag_that_is_a_special_token_is_refused(micro):
    processor = copy.deepcopy(micro().processor)
    processor.tokenizer.add_special_tokens({"additional_special_tokens": ["</think>"]})
    with pytest.raises(ConfigError, match="expected </think> as text, got it as special token"):
        ChatTokens(processor)

import copy
import logging

import numpy as np
import pytest
import torch
from PIL import Image

from dip_agents.tokens.buffer import TokenBuffer
from dip_agents.tokens.generic_chat import GenericChat
from dip_env.errors import ConfigError
from dip_env.messages import Message

FAMILIES = ["llava", "idefics3", "internvl", "gemma3"]
PER_IMAGE = {"llava": 16, "idefics3": 4, "internvl": 4, "gemma3": 4}


def picture(seed, size=(48, 80)):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def other(chat, template):
    """A chat like this one with another template."""
    processor = copy.copy(chat.processor)
    processor.chat_template = template
    return GenericChat(processor, chat.image_token_id)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_opening_is_what_transformers_makes_of_the_conversation(generic_micro, family):
    chat = generic_micro(family).chat
    message = Message("user", "Find 2 people.", (picture(0), picture(1, (64, 64))))
    ids, images = chat.opening([message])
    parts = [{"type": "image", "image": Image.fromarray(image)} for image in message.images]
    theirs = chat.processor.apply_chat_template(
        [{"role": "user", "content": [*parts, {"type": "text", "text": message.text}]}],
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        add_generation_prompt=True,
        processor_kwargs=dict(chat.settings),  # transformers adds to it
    )
    assert ids == theirs["input_ids"][0].tolist()
    assert torch.equal(chat.patches(images), theirs["pixel_values"].reshape(-1, 3, 56, 56))
    assert [image.tokens for image in images] == [PER_IMAGE[family]] * 2
    assert ids.count(chat.image_token_id) == 2 * PER_IMAGE[family]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_reply_continues_the_conversation_as_the_template_would(generic_micro, family):
    chat = generic_micro(family).chat
    first, later = Message("user", "Find", (picture(0),)), Message("user", "Crop", (picture(1),))
    said = "3 people, 1 unclear."
    buffer = TokenBuffer(chat.image_token_id)
    buffer.append_env(*chat.opening([first]))
    buffer.append_policy(chat.policy_ids(said), None)
    buffer.append_env(*chat.reply(later))
    whole, images = chat.opening([first, Message("assistant", said, ()), later])
    assert buffer.ids == whole
    assert [image.key for image in buffer.images] == [image.key for image in images]
    assert chat.text(chat.policy_ids(said)) == said


@pytest.mark.parametrize("family", FAMILIES)
def test_spelled_out_special_tokens_stay_text(generic_micro, family):
    chat = generic_micro(family).chat
    tokens = [chat.tokenizer.convert_ids_to_tokens(i) for i in chat._special_ids]
    text = "".join(map(str, tokens)) + "\ud800 <think>"
    ids, images = chat.reply(Message("user", text, ()))
    plain, _ = chat.reply(Message("user", "x", ()))
    special = [i for i in ids if i in chat._special_ids]
    assert special == [i for i in plain if i in chat._special_ids]
    assert images == []
    assert not set(chat.policy_ids(text)[:-1]) & chat._special_ids


def test_equal_pixels_have_equal_keys(generic_micro):
    chat = generic_micro("llava").chat
    one, again, different = (chat.encode_image(picture(seed)) for seed in (7, 7, 8))
    assert one.key == again.key
    assert one.key != different.key
    assert one.grid == (1, 4, 4)
    assert chat.patches([one, different]).shape == (2, 3, 56, 56)


def test_a_template_without_an_end_of_turn_gets_one_and_the_log_says_so(generic_micro, caplog):
    chat = generic_micro("llava").chat
    bare = (
        "{% for m in messages %}{{ m.role|upper }}: {% for part in m.content %}"
        "{% if part.type == 'image' %}<image>\n{% else %}{{ part.text }} {% endif %}{% endfor %}"
        "{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
    )
    with caplog.at_level(logging.WARNING):
        made = other(chat, bare)
    assert "the chat template ends replies with ' USER: x" in caplog.text
    assert made.eos_token == "<|im_end|>"
    ids, _ = made.reply(Message("user", "Crop", ()))
    assert made.tokenizer.decode(ids) == " USER: Crop ASSISTANT:"


def test_the_end_of_turn_is_what_the_template_writes_not_the_end_of_sequence(generic_micro):
    chat = generic_micro("idefics3").chat
    made = other(chat, chat.processor.chat_template.replace("<|im_end|>", "<end_of_utterance>"))
    assert made.eos_token == "<end_of_utterance>"
    assert made.policy_ids("x")[-1] == made.eos_token_id
    assert chat.eos_token_id in made.banned_ids
    assert made.eos_token_id not in made.banned_ids


def test_a_first_token_that_the_template_leaves_out_is_put_before_the_opening(generic_micro):
    chat = copy.copy(generic_micro("llava").chat)
    chat.tokenizer = copy.deepcopy(chat.tokenizer)
    before = chat.opening([Message("user", "x", ())])[0]
    chat.tokenizer.bos_token = "<|endoftext|>"
    from tokenizers.processors import TemplateProcessing

    first = chat.tokenizer.convert_tokens_to_ids("<|endoftext|>")
    chat.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", first)]
    )
    assert chat.opening([Message("user", "x", ())])[0] == [first, *before]
    assert first not in chat.reply(Message("user", "x", ()))[0]


def test_what_is_changed_to_show_images_whole_is_logged(generic_micro, caplog):
    chat = generic_micro("llava").chat
    with caplog.at_level(logging.WARNING):
        GenericChat(chat.processor, chat.image_token_id)
    assert (
        "each image is given to the model whole, in one picture: do_center_crop=False, size="
        in caplog.text
    )


def test_a_model_that_is_not_understood_is_refused_with_what_was_expected(generic_micro):
    chat = generic_micro("llava").chat
    with pytest.raises(ConfigError, match="chat template: expected one that takes"):
        other(chat, None)
    with pytest.raises(ConfigError, match="chat template: expected replies in it"):
        other(chat, "{{ messages|length }}")
    with pytest.raises(ConfigError, match="expected a tokenizer"):
        GenericChat(object(), 3)
    wrong = GenericChat(chat.processor, chat.tokenizer.convert_tokens_to_ids("<|video_pad|>"))
    with pytest.raises(ConfigError, match=r"expected it to write '<\|video_pad\|>' .* got none"):
        wrong.encode_image(picture(0))
    deaf = other(chat, chat.processor.chat_template.replace("<image>", ""))
    with pytest.raises(ConfigError, match="expected ids and pixel_values"):
        deaf.encode_image(picture(0))


def test_tiles_and_extra_inputs_are_refused(generic_micro):
    chat = generic_micro("internvl").chat
    tiled = GenericChat(chat.processor, chat.image_token_id)
    tiled.settings = {"crop_to_patches": True}
    with pytest.raises(ConfigError, match=r"one picture .* may cut it: crop_to_patches=True"):
        tiled.encode_image(picture(0, (56, 112)))

    class Sized:
        """A processor that also tells sizes, as those of LLaVA-NeXT do."""

        def __init__(self, inner):
            self.inner = inner

        def __getattr__(self, name):
            return getattr(self.inner, name)

        def __call__(self, **inputs):
            return self.inner(**inputs) | {"image_sizes": [[48, 80]]}

    sized = GenericChat(Sized(chat.processor), chat.image_token_id)
    with pytest.raises(ConfigError, match="expected pixel_values alone, got image_sizes too"):
        sized.encode_image(picture(0))


def test_pictures_of_changing_size_are_refused(generic_micro):
    chat = generic_micro("llava").chat
    loose = GenericChat(chat.processor, chat.image_token_id)
    loose.settings = {"do_center_crop": False}  # the shorter side alone is fixed
    loose.encode_image(picture(0, (56, 56)))
    with pytest.raises(ConfigError, match="give it a fixed size"):
        loose.encode_image(picture(0, (56, 112)))


def test_an_action_tag_must_not_be_a_special_token(generic_micro):
    chat = generic_micro("llava").chat
    processor = copy.copy(chat.processor)
    processor.tokenizer = copy.deepcopy(chat.tokenizer)
    processor.tokenizer.add_special_tokens({"additional_special_tokens": ["<look>"]})
    with pytest.raises(ConfigError, match="expected <look> as text"):
        GenericChat(processor, chat.image_token_id)

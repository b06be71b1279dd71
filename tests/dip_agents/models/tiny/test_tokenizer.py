import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dip_agents.models.tiny.tokenizer import INTEGER_ROLES, JOINED, build_tokenizer
from dip_agents.models.tiny.vocabulary import tiny_texts

TOKENIZER = build_tokenizer(tiny_texts())


def pieces(text):
    return [TOKENIZER.decode([i]) for i in TOKENIZER.encode(text, add_special_tokens=False)]


def test_a_box_is_four_tokens():
    assert pieces("<answer>[[7,165,54,249],[52,89,54,95]]</answer>") == [
        *("<answer>", "[[", "7", ",165", ",54", ",249", "],[52", ",89", ",54", ",95"),
        *("]]", "</answer>"),
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (",511,512", [",511", ",", "512"]),  # views up to 512 pixels
        ("],[12.5,1000]", ["],[12", ".", "5", ",", "1000", "]"]),
        (",07],[1234", [",", "0", "7", "],[", "1", "2", "3", "4"]),
        ("3 people, 1 unclear.", ["3", " people", ",", " ", "1", " unclear", "."]),
    ],
)
def test_other_numbers_fall_back(text, expected):
    assert "".join(expected) == text
    assert "".join(pieces(text)) == text
    if "1234" not in text:
        assert pieces(text) == expected


def test_ids_say_role_and_value():
    for before, ids in INTEGER_ROLES.items():
        assert [TOKENIZER.decode([ids[n]]) for n in (0, 7, JOINED - 1)] == [
            f"{before}{n}" for n in (0, 7, JOINED - 1)
        ]


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet=st.sampled_from("0123456789,[] .-<>/lokanswer\né"), max_size=60))
def test_any_text_survives(text):
    ids = TOKENIZER.encode(text, add_special_tokens=False)
    assert TOKENIZER.decode(ids, skip_special_tokens=False) == text

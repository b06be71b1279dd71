import json
import random
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dip_env.actions import Answer, Grammar, Look, Think, region_spans
from dip_env.errors import ActionParseError

law = settings(deadline=None, max_examples=80)
grammar = Grammar(max_regions=3, max_boxes=20, max_chars=5000, max_think_chars=500)

# Numbers that two decimals print exactly.
numbers = st.integers(-99_999, 99_999).map(lambda n: n / 100) | st.integers(
    -999_999_999, 999_999_999
).map(float)
box = st.lists(numbers, min_size=4, max_size=4)
# Surrogates cannot be encoded and are refused; every other character is fine in a label.
labels = st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
scores = st.none() | st.integers(0, 100).map(lambda n: n / 100)
thinks = st.text(st.characters(exclude_categories=["Cs"]), max_size=40).map(
    lambda text: Think(text.replace("<", "(").replace(">", ")"))
)
looks = st.lists(box, min_size=1, max_size=3).map(lambda boxes: Look(np.array(boxes)))
answers = st.lists(st.tuples(box, labels, scores), max_size=6).map(
    lambda items: Answer(
        [item[0] for item in items],
        tuple(item[1] for item in items),
        tuple(item[2] for item in items),
    )
)
segments = (
    st.tuples(st.lists(thinks | looks, max_size=5), st.lists(answers, max_size=1))
    .filter(lambda parts: parts[0] or parts[1])
    .map(lambda parts: (*parts[0], *parts[1]))
)


def parse_error(text, limits=grammar):
    with pytest.raises(ActionParseError) as caught:
        limits.parse(text)
    return caught.value


@law
@given(segments)
def test_parsing_what_was_formatted_returns_it(action):
    assert grammar.parse(grammar.format(action)) == action


@law
@given(segments, st.sampled_from(["", " ", "\n\t", " \r\n  "]))
def test_white_space_between_tokens_changes_nothing(action, gap):
    text = grammar.format(action)
    for token in ("<look>", "</look>", "<answer>", "</answer>"):
        text = text.replace(token, f"{gap}{token}{gap}")
    assert grammar.parse(gap + text + gap) == action


@law
@given(st.lists(box, min_size=1, max_size=5))
def test_lists_read_at_once_and_item_by_item_agree(boxes):
    plain = json.dumps(boxes)
    # Another order of keys takes the slower way.
    unusual = json.dumps([{"label": "p", "bbox_2d": b} for b in boxes])
    usual = json.dumps([{"bbox_2d": b, "label": "p"} for b in boxes])
    (bare,) = grammar.parse(f"<answer>{plain}</answer>")
    (slow,) = grammar.parse(f"<answer>{unusual}</answer>")
    (fast,) = grammar.parse(f"<answer>{usual}</answer>")
    assert slow == fast
    np.testing.assert_array_equal(bare.boxes, slow.boxes)


def test_an_action_worked_by_hand():
    text = (
        "<think> a < b, é </think>\n<look>[[1, 2.5,3,-4]]</look>\n"
        '<answer>[[0,0,10,20], {"score":0.5,"bbox_2d":[1,2,3,4],'
        '"label":"a \\"b\\" \\u00e9"}]</answer>'
    )
    think, look, answer = grammar.parse(text)
    assert think == Think(" a < b, é ")
    assert look.regions.tolist() == [[1, 2.5, 3, -4]] and look.regions.dtype == np.float64
    assert answer.boxes.tolist() == [[0, 0, 10, 20], [1, 2, 3, 4]]
    assert answer.labels == (None, 'a "b" é') and answer.scores == (None, 0.5)


def test_numbers_are_printed_as_short_as_they_can_be():
    text = grammar.format((Answer([[1.0, 2.5, 3.14159, -0.001]], scores=(0.5,)),))
    assert text == '<answer>[{"bbox_2d":[1,2.5,3.14,0],"score":0.5}]</answer>'
    assert grammar.format((Answer([]),)) == "<answer>[]</answer>"


@pytest.mark.parametrize("keys", ['"bbox_2d":{b},"score":1', '"score":1,"bbox_2d":{b}'])
def test_a_score_is_a_float_however_it_is_written(keys):
    (answer,) = grammar.parse(f"<answer>[{{{keys.format(b=[1, 2, 3, 4])}}}]</answer>")
    assert [type(score) for score in answer.scores] == [float]


def test_segments_compare_by_value():
    assert Look([[1, 2, 3, 4]]) == Look([[1, 2, 3, 4]]) != Look([[1, 2, 3, 5]])
    assert Answer([[1, 2, 3, 4]]) == Answer([[1, 2, 3, 4]], (None,), (None,))
    assert Answer([[1, 2, 3, 4]]) != Answer([[1, 2, 3, 4]], ("person",))
    assert Answer([[1, 2, 3, 4]]) != Look([[1, 2, 3, 4]])


@pytest.mark.parametrize(
    ("text", "position", "message"),
    [
        ("", 0, "expected <think>, <look> or <answer>, got the end of the text"),
        ("  ", 2, "expected <think>, <look> or <answer>, got the end of the text"),
        ("hello", 0, "expected <think>, <look> or <answer>, got 'hello'"),
        ("<think>a</think> hi", 17, "expected <think>, <look> or <answer>, got 'hi'"),
        ("<think>abc", 10, "expected </think> for the <think> at character 0"),
        ("<think>a<answer>[]</answer></think>", 8, "expected </think>, got '<answer>[]"),
        ("<think>a</look>", 8, "expected </think>, got '</look>'"),
        ("<Look>[[1,2,3,4]]</Look>", 0, "expected <think>, <look> or <answer>, got '<Look>"),
        ("<look>[]</look>", 0, "expected at least one region in a look, got none"),
        ("<look>[[1,2,3,4]", 16, "expected ',' or ']', got the end of the text"),
        ("<look>[[1,2,3,4]]", 17, "expected </look>, got the end of the text"),
        ("<look>[[1,2,3]]</look>", 7, "expected 4 numbers in a box, got 3"),
        ("<look>[[1,2,3,4,5]]</look>", 16, "expected at most 4 numbers in a box, got '5]]"),
        ("<look>[1,2,3,4]</look>", 7, "expected a box [x1,y1,x2,y2], got '1,2,3,4]"),
        ('<look>[{"bbox_2d":[1,2,3,4]}]</look>', 7, "expected a box [x1,y1,x2,y2], got '{"),
        (
            "<look>" + str([[1, 2, 3, 4]] * 4) + "</look>",
            49,
            "expected at most 3 regions in a look",
        ),
        ("<answer>" + str([[1, 2, 3, 4]] * 21) + "</answer>", 289, "expected at most 20 boxes in"),
        ("<answer>[]</answer><answer>[]</answer>", 19, "expected nothing after </answer>"),
        ("<answer>[]</answer><look>[[1,2,3,4]]</look>", 19, "expected nothing after </answer>"),
        ("<answer>[]</answer> bye", 20, "expected nothing after </answer>, got 'bye'"),
        ("<answer>[[1,2,3,4],]</answer>", 19, "expected a box [x1,y1,x2,y2], got ']"),
        ("<answer>[[1,2,3,4]", 18, "expected ',' or ']', got the end of the text"),
        ('<answer>[{"label":"a"}]</answer>', 9, 'expected the key "bbox_2d" in every item'),
        ('<answer>[{"box":[1,2,3,4]}]</answer>', 10, 'expected the key "bbox_2d", "label" or'),
        (
            '<answer>[{"bbox_2d":[1,2,3,4],"bbox_2d":[1,2,3,4]}]</answer>',
            30,
            'expected each key once, got "bbox_2d" again',
        ),
        (
            '<answer>[{"bbox_2d":[1,2,3,4],"score":1.5}]</answer>',
            38,
            "expected a score from 0 to 1, got '1.5}]",
        ),
        (
            '<answer>[{"bbox_2d":[1,2,3,4],"label":"a\nb"}]</answer>',
            38,
            'expected a JSON string, got \'"a\\nb"}]',
        ),
        (
            '<answer>[{"bbox_2d":[1,2,3,4],"label":"\\ud800"}]</answer>',
            38,
            "expected Unicode text, got a lone surrogate",
        ),
        ("<think>\ud800</think>", 7, "expected Unicode text, got a lone surrogate"),
    ],
)
def test_an_error_says_where_what_was_expected_and_what_came(text, position, message):
    error = parse_error(text)
    assert error.position == position
    assert f"at character {position}: {message}" in str(error)


NOT_NUMBERS = ["NaN", "Infinity", "-Infinity", "true", "null", '"1"', "[1]", "-", "--1", "\u0661"]
NOT_PLAIN = ["1e5", "1E5", "+1", "01", "-01", ".5", "1.", "1_000", "0x10", "1;2"]
TOO_LONG = ["1234567890", "0." + 21 * "1"]


@pytest.mark.parametrize("number", [*NOT_NUMBERS, *NOT_PLAIN, *TOO_LONG])
def test_a_number_that_is_not_plain_json_is_refused(number):
    for tag in ("look", "answer"):
        error = parse_error(f"<{tag}>[[0,{number},3,4]]</{tag}>")
        assert "expected" in str(error)
        start = len(f"<{tag}>[[0,")
        assert start <= error.position <= start + 2


@pytest.mark.parametrize("number", ["0", "-0", "-0.5", "999999999", "0.123456789", "12.50"])
def test_a_plain_json_number_is_read(number):
    (look,) = grammar.parse(f"<look>[[0,{number},3,4]]</look>")
    assert look.regions[0, 1] == float(number)


def test_text_over_a_limit_is_refused_at_the_limit():
    error = parse_error("x" * 5001)
    assert error.position == 5000
    assert "expected at most 5000 characters in an action, got 5001" in str(error)
    error = parse_error(f"<think>{'x' * 501}</think>")
    assert error.position == 507
    assert "expected at most 500 characters in a think, got 501" in str(error)
    assert grammar.parse(f"<think>{'x' * 500}</think>") == (Think("x" * 500),)


def test_an_error_quotes_at_most_forty_characters():
    assert f"got '{'x' * 40}'" in str(parse_error("x" * 1000))
    assert f"got '{'x' * 39}'" in str(parse_error("x" * 39))


@law
@given(st.text(max_size=300))
def test_any_text_parses_or_fails_at_a_position_in_it(text):
    try:
        assert len(grammar.parse(text)) > 0
    except ActionParseError as error:
        assert 0 <= error.position <= len(text)
        str(error).encode()


def test_only_text_is_parsed():
    with pytest.raises(TypeError, match="action: expected str, got bytes"):
        grammar.parse(b"<answer>[]</answer>")


@pytest.mark.parametrize(
    "segments",
    [
        (),
        (Answer([]), Think("late")),
        (Look(np.zeros((0, 4))),),
        (Look([[0, 0, 1, 1]] * 4),),
        (Answer([[0, 0, float("nan"), 1]]),),
        (Answer([[0, 0, 1e9, 1]]),),
        (Answer([[0, 0, 1, 1]], scores=(2.0,)),),
    ],
)
def test_what_the_grammar_forbids_is_not_formatted(segments):
    with pytest.raises(ActionParseError, match="expected"):
        grammar.format(segments)


def test_segments_check_themselves():
    with pytest.raises(ValueError, match="think: expected text without tags, got </think>"):
        Think("a</think><think>b")
    with pytest.raises(ValueError, match="labels: expected 1 entries, got 2"):
        Answer([[0, 0, 1, 1]], ("a", "b"))


def test_the_described_format_parses():
    described = Grammar(max_regions=2).describe()
    assert "at most 2 regions" in described
    filled = described.replace("x1,y1,x2,y2", "1,2,3,4").replace(",...", "")
    words = filled.replace("</look> (at most 2 regions) and, at the end, ", "</look>")
    think, look, answer = grammar.parse(words.replace("</think>, ", "</think>"))
    assert think == Think("your reasoning")
    assert look == Look([[1, 2, 3, 4]]) and answer == Answer([[1, 2, 3, 4]])


VALID = (
    "<think>two people</think><look>[[1,2,30,40],[5,6,70,80.5]]</look>"
    '<answer>[[1,2,3,4],{"bbox_2d":[5,6,7,8],"label":"p\\n","score":0.25}]</answer>'
)
PIECES = [*'[]{},:"<>/. \n\\-+eE019', "<think>", "</think>", "<look>", "</look>", "<answer>"]
PIECES += ["</answer>", '"bbox_2d"', '"label"', "[1,2,3,4]", "NaN", "\ud800", "é", "🙂", "\x00"]


def mutated(rng):
    """A valid action with a few random cuts, copies and insertions."""
    text = VALID
    for _ in range(rng.randint(0, 4)):
        a, b = sorted(rng.randrange(len(text) + 1) for _ in range(2))
        change = rng.choice(["cut", "copy", "insert", "swap"])
        if change == "cut":
            text = text[:a] + text[min(b, a + 8) :]
        elif change == "copy":
            text = text[:a] + text[a:b] + text[a:]
        elif change == "insert":
            text = text[:a] + rng.choice(PIECES) + text[a:]
        else:
            text = text[:a] + text[b:] + text[a:b]
    return text


def test_random_and_mutated_actions_raise_nothing_but_parse_errors():
    rng = random.Random(0)
    outcomes = {"parsed": 0, "refused": 0}
    for i in range(6000):
        text = mutated(rng) if i % 2 else "".join(rng.choices(PIECES, k=rng.randint(0, 40)))
        try:
            parsed = grammar.parse(text)
        except ActionParseError as error:
            outcomes["refused"] += 1
            assert 0 <= error.position <= len(text)
        else:
            outcomes["parsed"] += 1
            assert parsed and all(isinstance(s, Answer) is False for s in parsed[:-1])
            assert grammar.parse(grammar.format(parsed)) is not None
    assert min(outcomes.values()) > 200


HARD_TEXTS = {
    "brackets": ("", "["),
    "brackets in an answer": ("<answer>[", "["),
    "digits": ("", "1"),
    "digits in a box": ("<answer>[[", "1"),
    "nested tags": ("", "<think>"),
    "nested tags in an answer": ("<answer>[", "<answer>["),
    "tag starts in a think": ("<think>", "<think"),
    "spaces": ("", " "),
    "spaces after a tag": ("<answer>", " "),
    "spaces in a box": ("<answer>[[1", " "),
    "spaces after a box": ("<answer>[[1,2,3,4]", " "),
    "many thinks": ("", "<think></think>"),
    "many looks": ("", "<look>[[1,2,3,4]]</look>"),
    "many boxes": ("<answer>[", "[1,2,3,4],"),
    "many spaced boxes": ("<answer>[", "[1 , 2 , 3 , 4 ] , "),
    "many objects": ("<answer>[", '{"label":"x","bbox_2d":[1,2,3,4]},'),
    "backslashes": ('<answer>[{"label":"', "\\"),
    "escapes": ('<answer>[{"label":"', "\\n"),
    "a long label": ('<answer>[{"bbox_2d":[1,2,3,4],"label":"', "é"),
    "surrogates": ("é", "\ud800"),
}


def seconds_to_parse(limits, prefix, unit, length):
    text = (prefix + unit * (length // len(unit) + 1))[:length]
    # Time of this process alone: neighbours on the machine do not count.
    start = time.process_time()
    try:
        limits.parse(text)
    except ActionParseError as error:
        assert len(str(error)) < 1000
    return time.process_time() - start


@pytest.mark.parametrize("name", HARD_TEXTS)
def test_a_megabyte_of_anything_parses_in_linear_time(name):
    unbounded = Grammar(10**7, 10**7, 10**7, 10**7)
    quarter, full = (
        min(seconds_to_parse(unbounded, *HARD_TEXTS[name], length) for _ in range(3))
        for length in (250_000, 1_000_000)
    )
    # Four times the text: quadratic time would be 16 times as long, and take minutes.
    assert full < 10 * quarter + 0.1
    assert full < 10


def test_a_megabyte_is_refused_at_once_under_the_default_limits():
    for prefix, unit in HARD_TEXTS.values():
        assert seconds_to_parse(Grammar(), prefix, unit, 1_000_000) < 0.1


@given(st.lists(st.floats(0.001, 5000.0), min_size=4, max_size=4))
def test_plain_python_floats_print_back(numbers):
    (answer,) = Grammar(3).parse(f"<answer>[{numbers}]</answer>")
    assert answer.boxes.tolist() == [numbers]


@pytest.mark.parametrize(
    ("action", "regions"),
    [
        ("<think>[1,2,3,4]</think><look>[[1,2,3,4]]</look>", ["[1,2,3,4]"]),
        ("<look>[ [1, 2,3,4] ,\n[5,6,7,8.5]]</look>", ["[1, 2,3,4]", "[5,6,7,8.5]"]),
        ("<look>[[1,2,3,4]]</look> <look>[[5,6,7,8]]</look>", ["[1,2,3,4]", "[5,6,7,8]"]),
        ("<look>[]</look>", []),
        ("<think>a</think><answer>[[1,2,3,4]]</answer>", []),
    ],
)
def test_regions_are_the_boxes_of_looks_alone(action, regions):
    assert [action[start:stop] for start, stop in region_spans(action)] == regions

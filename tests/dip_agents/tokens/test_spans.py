"""Which tokens write a part of a text."""

from hypothesis import given
from hypothesis import strategies as st

from dip_agents.tokens.spans import tokens_of_spans
from dip_env.actions import region_spans

PIECES = ["<look>", "[[", "1", "0", ",", "5", ",", "90", ",4", "0],", "[7,8,", "9,10]", "]</look>"]


def decode(ids):
    return "".join(PIECES[i] for i in ids)


def test_the_tokens_of_regions_are_found_where_tokens_cross_their_ends():
    ids = range(len(PIECES))
    text = decode(ids)
    assert text == "<look>[[10,5,90,40],[7,8,9,10]]</look>"
    first, second = tokens_of_spans(decode, ids, region_spans(text))
    assert decode(ids[slice(*first)]) == "[[10,5,90,40],"
    assert decode(ids[slice(*second)]) == "[7,8,9,10]"


def test_a_token_that_ends_one_part_and_begins_the_next_belongs_to_the_next():
    texts = ["ab", "cd", "ef"]
    spans = tokens_of_spans(lambda ids: "".join(texts[i] for i in ids), [0, 1, 2], [(0, 3), (3, 6)])
    assert spans == ((0, 1), (1, 3))


def test_no_parts_need_no_tokens():
    assert tokens_of_spans(decode, [0, 1], []) == ()


@given(st.lists(st.text("xyz", min_size=1, max_size=4), min_size=1, max_size=12), st.data())
def test_the_tokens_of_a_part_hold_all_of_it_and_no_whole_token_beside_it(pieces, data):
    whole = "".join(pieces)
    start = data.draw(st.integers(0, len(whole) - 1))
    stop = data.draw(st.integers(start + 1, len(whole)))
    ((first, last),) = tokens_of_spans(
        lambda ids: "".join(pieces[i] for i in ids), range(len(pieces)), [(start, stop)]
    )
    starts = [sum(map(len, pieces[:i])) for i in range(len(pieces) + 1)]
    assert starts[first] <= start < starts[first + 1]
    assert starts[last - 1] < stop <= starts[last]

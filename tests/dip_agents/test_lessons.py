import numpy as np
import pytest

from dip_agents.lessons import LessonData
from dip_agents.oracle import OraclePolicy
from dip_env.episode import Episode


@pytest.fixture
def data(micro, toy, brief_rules):
    return LessonData(toy, 4, brief_rules, OraclePolicy, micro("qwen3_vl").chat)


def test_a_lesson_is_the_demonstrated_conversation(data, micro, brief_rules, toy):
    chat = micro("qwen3_vl").chat
    lesson = data[0]
    spoken = [i for i, m in zip(lesson.buffer.ids, lesson.buffer.loss_mask, strict=True) if m]
    first, second, rest = (
        chat.tokenizer.decode(spoken).replace("<|im_end|>", "\n").split("\n", maxsplit=2)
    )
    assert rest == ""
    episode = Episode(toy[0], brief_rules)
    episode.step(first)
    terms = episode.step(second).info["reward_terms"]
    assert terms["format"] == terms["accuracy"] == 1.0


def test_boxes_lie_in_the_pixels_of_their_image(data):
    lesson = data[0]
    assert len(lesson.boxes) == len(lesson.buffer.images) >= 2
    # Scene 0 is 640 x 480, its overview 128 x 96: a fifth of every number.
    np.testing.assert_allclose(lesson.boxes[0][0], [8, 20, 24, 68])
    for image, boxes in zip(lesson.buffer.images, lesson.boxes, strict=True):
        _, h, w = image.grid
        assert (boxes >= 0).all()
        assert (boxes <= np.array([w, h, w, h]) * 16).all()


def test_lessons_repeat(data):
    assert data[1].buffer.ids == data[1].buffer.ids
    assert len(data) == 4

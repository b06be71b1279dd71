from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dip_env.messages import Message


def test_a_captioned_message_has_a_line_for_each_image():
    image = np.zeros((4, 4, 3), np.uint8)
    with pytest.raises(ValueError, match="expected a line for each of 2 images, got 1"):
        Message("user", "one line", (image, image), captioned=True)


@example(lines=["a", ""], images=1, captioned=True)
@given(
    lines=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=5), min_size=1),
    images=st.integers(0, 4),
    captioned=st.booleans(),
)
def test_the_parts_of_a_message_are_its_text_and_its_images_in_order(lines, images, captioned):
    text = "\n".join(lines)
    pictures = tuple(np.full((2, 2, 3), k, np.uint8) for k in range(images))
    captioned = captioned and images <= text.count("\n") + 1
    message = Message("user", text, pictures, captioned)
    assert "".join(p for p in message.parts if isinstance(p, str)) == text
    shown = [p for p in message.parts if not isinstance(p, str)]
    assert len(shown) == images
    assert all(a is b for a, b in zip(shown, pictures, strict=True))

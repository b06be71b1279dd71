from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dip_env.errors import ConfigError
from dip_env.scenes.toy import ToyScenes
from dip_env.scenes.transforms.cached import CachedScenes

TOY = ToyScenes()
IMAGE_BYTES = TOY[0].size[0] * TOY[0].size[1] * 4


def test_a_kept_scene_is_the_same_object_with_the_same_image(counting_scenes):
    source = counting_scenes()
    scenes = CachedScenes(source)
    assert scenes[1] is scenes[1]
    assert scenes[1].image is scenes[1].image
    assert source.made == [1]
    assert np.array_equal(np.asarray(scenes[1].image), np.asarray(TOY[1].image))


def test_the_least_recently_used_scene_is_dropped_first(counting_scenes):
    source = counting_scenes()
    scenes = CachedScenes(source, 2 * IMAGE_BYTES)
    for index in (0, 1, 0, 2, 0, 1):
        scenes[index]
    # 2 takes the place of 1, as 0 was used again; then 1 that of 2.
    assert source.made == [0, 1, 2, 1]


@given(st.lists(st.integers(0, len(TOY) - 1), max_size=30), st.integers(1, 4 * IMAGE_BYTES))
def test_the_bound_holds_and_the_scenes_are_those_of_the_source(
    counting_scenes, indices, max_bytes
):
    source = counting_scenes()
    scenes = CachedScenes(source, max_bytes)
    room = max_bytes // IMAGE_BYTES
    recent = []  # indices, least recently used first
    for index in indices:
        made = len(source.made)
        assert scenes[index].scene_id == TOY[index].scene_id
        assert len(source.made) - made == (index not in recent)
        recent = [k for k in recent if k != index] + [index]
        recent = recent[-room:] if room else []


def test_scenes_are_found_and_named_as_those_of_the_source():
    scenes = CachedScenes(TOY)
    assert len(scenes) == len(TOY)
    assert repr(scenes) == repr(TOY)
    with pytest.raises(IndexError):
        scenes[len(TOY)]


@pytest.mark.parametrize("max_bytes", [0, -1])
def test_a_cache_without_room_is_refused(max_bytes):
    with pytest.raises(ConfigError, match=re.escape(f"integer >= 1, got {max_bytes}")):
        CachedScenes(TOY, max_bytes)

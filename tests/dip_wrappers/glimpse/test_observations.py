import numpy as np
import pytest

from dip_env.episode import Episode
from dip_env.errors import ConfigError
from dip_wrappers.glimpse import BoxLooks, Detections, GridLooks, ObservationSizes
from dip_wrappers.glimpse.observations import GRID_KEYS, KEYS, PARTS, observation_parts, uncertainty


def test_every_part_observes_a_member_of_its_space_before_and_after_a_look(toy):
    episode = Episode(toy[0])
    found = Detections(episode.scene.truth, np.linspace(0.1, 1.0, len(episode.scene.truth)))
    parts = observation_parts(tuple(PARTS), ObservationSizes(48, 32, 4), GridLooks((2,)))
    assert list(parts) == list(PARTS)
    for action in (None, "<look>[[20,60,100,240]]</look>"):
        if action is not None:
            episode.step(action)
        for key, part in parts.items():
            assert part.space.contains(part.observe(episode, found)), key


def test_grid_parts_are_none_of_the_default():
    assert set(PARTS) - set(KEYS) == set(GRID_KEYS)


@pytest.mark.parametrize("keys", [("cells",), ("smell",), (), ("image", "image")])
def test_a_part_that_the_looks_do_not_have_is_refused(keys):
    with pytest.raises(ConfigError, match="keys: expected some of image, crop"):
        observation_parts(keys, ObservationSizes(), BoxLooks())


def test_a_detection_is_most_uncertain_at_one_half():
    assert uncertainty(np.array([0.0, 0.25, 0.5, 1.0])).tolist() == [0.0, 0.75, 1.0, 0.0]

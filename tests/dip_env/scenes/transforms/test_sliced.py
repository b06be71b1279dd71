import pytest

from dip_env.errors import ConfigError
from dip_env.scenes.transforms.sliced import SlicedScenes


def test_a_slice_holds_its_scenes_and_no_others(toy):
    some = SlicedScenes(toy, 1, 2)
    assert [some[k].scene_id for k in range(len(some))] == ["toy-1", "toy-2"]
    assert repr(some) == "SlicedScenes(ToyScenes(), first=1, count=2)"
    for index in (-1, 2):
        with pytest.raises(IndexError, match=rf"expected 0\.\.1, got {index}"):
            some[index]


@pytest.mark.parametrize(("first", "count"), [(-1, 2), (3, 2), (0, -1)])
def test_scenes_that_the_source_does_not_have_are_refused(toy, first, count):
    with pytest.raises(ConfigError, match=rf"within 0\.\.3, got {count} from {first} on"):
        SlicedScenes(toy, first, count)

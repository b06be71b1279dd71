from itertools import count

import numpy as np

from dip_env.scenes.procedural.source import ProceduralCrowd
from dip_env.scenes.toy import ToyScenes
from dip_env.scenes.transforms.prefetched import PrefetchedScenes


def test_announced_scenes_come_from_the_stream_and_others_from_the_source(counting_scenes):
    source = counting_scenes()
    scenes = PrefetchedScenes(source, iter([2, 1, 2, 0]), workers=0)
    wanted = [2, 3, 1, 2, 0, 3]
    assert [scenes[i].scene_id for i in wanted] == [ToyScenes()[i].scene_id for i in wanted]
    assert source.made == wanted  # each once, when it was asked for
    assert len(scenes) == len(source)
    assert repr(scenes) == repr(source)


def test_workers_make_the_announced_scenes_and_only_those():
    plain = ProceduralCrowd("easy", size=(160, 120))
    scenes = PrefetchedScenes(plain, count(4), workers=1, ahead=2)
    try:
        for index in (4, 5, 9, 6):
            scene = scenes[index]
            assert np.array_equal(np.asarray(scene.image), np.asarray(plain[index].image))
            assert np.array_equal(scene.boxes, plain[index].boxes)
    finally:
        scenes.close()
    assert np.array_equal(scenes[7].boxes, plain[7].boxes)  # after closing, from the source

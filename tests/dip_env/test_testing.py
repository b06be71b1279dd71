from __future__ import annotations

from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
from PIL import Image

from dip_env.config import EpisodeConfig, RewardConfig
from dip_env.errors import DipError
from dip_env.scenes import ToyScenes
from dip_env.scenes.base import Scene
from dip_env.testing import check_dip_env


class Broken(ToyScenes):
    """Toy scenes with one thing changed."""

    def change(self, scene: Scene, index: int) -> Scene:
        return scene

    def __getitem__(self, index: int) -> Scene:
        return self.change(super().__getitem__(index), index)


class OtherImageEachTime(Broken):
    calls = 0

    def change(self, scene, index):
        self.calls += 1
        shade = self.calls % 256
        return replace(scene, load_image=lambda: Image.new("RGB", scene.size, (shade, 0, 0)))


class OtherBoxesEachTime(Broken):
    calls = 0

    def change(self, scene, index):
        self.calls += 1
        return replace(scene, boxes=scene.boxes + np.float32(self.calls))


class WrongImageSize(Broken):
    def change(self, scene, index):
        return replace(scene, load_image=lambda: Image.new("RGB", (10, 10)))


class GreyImage(Broken):
    def change(self, scene, index):
        return replace(scene, load_image=lambda: Image.new("L", scene.size))


class ShareOverOne(Broken):
    def change(self, scene, index):
        return replace(scene, visible_share=scene.visible_share * 2)


class SameName(Broken):
    def change(self, scene, index):
        return replace(scene, scene_id="scene")


class BoxOutside(Broken):
    def change(self, scene, index):
        return replace(scene, boxes=scene.boxes + np.float32(10_000))


class BoxTwice(Broken):
    def change(self, scene, index):
        return replace(scene, boxes=scene.boxes[[0] * len(scene.boxes)])


class TooSmallToPrint(Broken):
    def change(self, scene, index):
        boxes = scene.boxes[:, [0, 1, 0, 1]] + np.array([0, 0, 0.001, 0.001], np.float32)
        return replace(scene, boxes=boxes)


class NoScene(Broken):
    def change(self, scene, index):
        return None


class NoEnd(ToyScenes):
    def __getitem__(self, index):
        return super().__getitem__(index % 4)


class NegativeIndices(ToyScenes):
    def __getitem__(self, index):
        return super().__getitem__(3 if index == -1 else index)


class Nothing(ToyScenes):
    def __len__(self):
        return 0


@pytest.mark.parametrize(
    "config",
    [
        EpisodeConfig(),
        EpisodeConfig(coordinate_format="norm1000", size_multiple=28, view_size=300),
        EpisodeConfig(max_turns=1),
        EpisodeConfig(max_looks=0, max_turns=2),
        EpisodeConfig(reward=RewardConfig(iou="0.5:0.95", accuracy_weight=3)),
    ],
)
def test_toy_scenes_pass_under_many_rules(toy, config):
    check_dip_env(toy, config, indices=range(4))


def test_environments_pass_with_and_without_wrappers(toy):
    check_dip_env(gym.make("DIPCrowd-v0", scenes=toy, max_turns=3), indices=range(4))
    check_dip_env(gym.make("DIPCrowd-v0", scenes="easy"), indices=[0])


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (OtherImageEachTime(), "scene 2: image: expected the same each time"),
        (OtherBoxesEachTime(), "scene 1: boxes: expected the same each time"),
        (WrongImageSize(), r"image: expected RGB of \(640, 480\), got RGB of \(10, 10\)"),
        (GreyImage(), "image: expected RGB"),
        (ShareOverOne(), r"scene 0: visible_share: expected numbers in \[0, 1\]"),
        (SameName(), "scene 1: scene_id: expected a name of its own, got 'scene'"),
        (BoxOutside(), r"scene 0: boxes\[0\]: expected a part inside the image"),
        (BoxTwice(), r"scene 0: expected the ground truth .* accuracy 1, got .* a box given twice"),
        (TooSmallToPrint(), "too small to be printed"),
        (NoScene(), "scene 0: expected a Scene, got NoneType"),
        (NoEnd(), r"scene 4: expected IndexError outside 0\.\.3"),
        (NegativeIndices(), r"scene -1: expected IndexError outside 0\.\.3"),
        (Nothing(), "got 0 scenes in all"),
        (3, "expected a source with __len__ and __getitem__, got int"),
    ],
)
def test_what_is_broken_is_named(source, message):
    with pytest.raises(DipError, match=message):
        check_dip_env(source)


def test_scenes_beyond_the_end_are_left_out_but_not_all(toy):
    check_dip_env(toy, indices=[3, 4, 5])
    with pytest.raises(DipError, match=r"expected a scene among \[7\], got 4"):
        check_dip_env(toy, indices=[7])


class TellsTruth(gym.Wrapper):
    def step(self, action):
        *result, info = super().step(action)
        return *result, {"truth_boxes": [], **info}


class PaysEarly(gym.Wrapper):
    def step(self, action):
        observation, reward, *rest = super().step(action)
        return observation, reward + 0.1, *rest


class NeverEnds(gym.Wrapper):
    def step(self, action):
        observation, reward, _, _, info = super().step(action)
        return observation, reward, False, False, info


class PaysTooMuch(gym.Wrapper):
    def step(self, action):
        observation, reward, *rest = super().step(action)
        return observation, reward * 5, *rest


class HidesTerms(gym.Wrapper):
    def step(self, action):
        *result, info = super().step(action)
        info.pop("reward_terms", None)
        return *result, info


@pytest.mark.parametrize(
    ("wrapper", "message"),
    [
        (TellsTruth, "expected 'truth_boxes' only after the end"),
        (PaysEarly, "reward: expected 0 before the end, got 0.1"),
        (NeverEnds, "expected the end after 4 turns"),
        (PaysTooMuch, r"reward: expected \[0, 1.0\], got 4"),
        (HidesTerms, "expected 'reward_terms' after the end"),
    ],
)
def test_a_wrapper_that_breaks_the_contract_is_found_out(toy, wrapper, message):
    with pytest.raises(DipError, match=message):
        check_dip_env(wrapper(gym.make("DIPCrowd-v0", scenes=toy)))


def test_another_environment_is_refused():
    with pytest.raises(DipError, match="expected a DIPCrowdEnv inside, got CartPoleEnv"):
        check_dip_env(gym.make("CartPole-v1"))

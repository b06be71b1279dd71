"""Play hostile actions through an episode, the environment and the vector environment.

Each is played beside a twin that gets the same: both must see and earn the same, whatever the twin
is made of (a copy by pickle, in mid-episode). Rewards stay between 0 and the sum of the weights,
observations in their space, texts encodable, and a refused call leaves everything as it was.
"""

from __future__ import annotations

import contextlib
import copy
import pickle
import time
import warnings
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from PIL import Image

import dip_env  # noqa: F401 (registers the environment)
from dip_env.config import EpisodeConfig
from dip_env.episode import Episode
from dip_env.errors import DipError
from dip_env.messages import Turn
from dip_env.scenes.base import Scene

SECONDS = 2.0
"""Computing that a single call may take."""
SIZES = ((1, 1), (2, 3), (640, 480), (4000, 8), (8, 4000))
RULES: tuple[dict[str, Any], ...] = (
    {"view_size": 64, "crop_size": 32},
    {"view_size": 96, "crop_size": 64, "coordinate_format": "norm1000", "max_turns": 2},
    {"view_size": 64, "crop_size": 32, "max_looks": 0, "graded_format": True},
    {"view_size": 56, "crop_size": 28, "size_multiple": 28, "max_regions": 1, "max_turns": 1},
    {"view_size": 64, "crop_size": 32, "iou": "0.5:0.95", "invented_weight": 1.0, "max_turns": 3},
    {"view_size": 64, "crop_size": 32, "accuracy": "weighted_sum", "minimal_prompt": True},
)
PIECES = (
    *("<think>", "</think>", "<look>", "</look>", "<answer>", "</answer>", "<", ">", "[", "]"),
    *("[[", "]]", "{", "}", '"bbox_2d":', '"label":', '"score":', ",", ":", " ", "\n", "\t"),
    *("0", "1", "-1", "1e9", "1e999", "-0", "00", ".5", "5.", "nan", "Infinity", "null", "true"),
    *("9" * 400, "0." + "1" * 400, "\u0661", "\u2028", "\ufeff", "\ud800", "\x00", "é", "人", "🙂"),
    *("<think>a</think>", "<look>[[1,1,9,9]]</look>", "<answer>[]</answer>", "[1,2,3,4]"),
    *("<|im_end|>", "<|image_pad|>", "\\u0031", "[" * 3000, "<think>" * 500, "x" * 9000),
)
NO_ACTIONS: tuple[Any, ...] = (None, 3, b"<answer>[]</answer>", ["x"], {"a": 1}, np.array("x"))
"""What is no string."""
BAD_RESETS: tuple[dict[str, Any], ...] = (
    {"seed": 5, "options": {"scene": -1}},
    {"options": {"scene": 10**9}},
    {"seed": 5, "options": {"scene": "x"}},
    {"seed": 5, "options": {"other": 1}},
    {"seed": -5},
)
REFUSED = (DipError, IndexError, TypeError, ValueError, gym.error.Error)
"""Documented errors of calls that are wrong."""

Found = dict[str, tuple[int, list[str]]]


def attack(rng: np.random.Generator, tries: int) -> Found:
    """Play hostile actions.

    Args:
        rng: what the tries depend on.
        tries: episodes, shared evenly among the kinds.

    Returns:
        By kind: its tries, and a sentence for each that failed.
    """
    kinds: dict[str, Callable[[np.random.Generator], None]] = {
        "episode": play_episode,
        "make": play_environment,
        "make_vec": play_vector_environment,
    }
    found: Found = {}
    share = -(-tries // len(kinds))
    for kind, play in kinds.items():
        failures = []
        for seed in rng.integers(2**32, size=share).tolist():
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    play(np.random.default_rng(seed))
            except Exception as error:  # what is looked for
                failures.append(f"{kind}, seed {seed}: {type(error).__name__}: {str(error)[:300]}")
        found[kind] = share, failures
    return found


def hostile_action(rng: np.random.Generator) -> str:
    """Return a text: pieces of the grammar and of what it refuses, or many boxes."""
    kind = rng.random()
    if kind < 0.2:
        return many_boxes(rng)
    if kind < 0.4:
        corners = rng.normal(20, 40, (int(rng.integers(1, 5)), 4)).round(int(rng.integers(3)))
        return f"<think>t</think><look>{corners.tolist()}</look>".replace(" ", "")
    return "".join(PIECES[k] for k in rng.integers(len(PIECES), size=int(rng.integers(1, 14))))


def many_boxes(rng: np.random.Generator) -> str:
    """Return an answer with up to a thousand boxes that are equal, nearly so, or anywhere."""
    count, spread = int(rng.integers(1, 1001)), rng.choice([0.0, 0.3, 30.0, 1e6])
    boxes = rng.normal([10, 10, 40, 40], spread, (count, 4)).round(2)
    return f"<answer>{boxes.tolist()}</answer>".replace(" ", "")


class HostileScenes:
    """Scenes of odd sizes, with boxes that leave the image; some cannot be drawn."""

    def __init__(self, damaged: bool = True) -> None:
        self.damaged = damaged

    def __len__(self) -> int:
        return 2 * len(SIZES)

    def __getitem__(self, index: int) -> Scene:
        size, rng = SIZES[index % len(SIZES)], np.random.default_rng(index)
        low = rng.uniform(-0.2, 0.9, (5 * (index % 3), 2)) * size
        boxes = np.concatenate([low, low + rng.uniform(0.5, 60, low.shape)], 1).astype(np.float32)
        ignored = np.arange(len(boxes)) % 4 == 3
        broken = self.damaged and index == 7
        return Scene(
            scene_id=str(index),
            size=(size[0] + broken, size[1]),  # its image is of another size
            boxes=boxes,
            visible_boxes=boxes,
            visible_share=np.ones(len(boxes), np.float32),
            ignore=ignored,
            labels=("person",) * len(boxes),
            load_image=Draw(size),
        )


class Draw:
    """Draws a grey image; unlike a function in a function, it can be pickled."""

    def __init__(self, size: tuple[int, int]) -> None:
        self.size = size

    def __call__(self) -> Image.Image:
        return Image.new("RGB", self.size, (90, 90, 90))


def expect(holds: object, what: str) -> None:
    """Raise AssertionError for what does not hold, with ``python -O`` as well."""
    if not holds:
        raise AssertionError(what)


def timed(act: Callable[[], Any]) -> Any:
    """Return what a call returns, if it took little time."""
    began = time.process_time()
    value = act()
    taken = time.process_time() - began
    expect(taken <= SECONDS, f"a call took {taken:.1f} s")
    return value


def same(a: Any, b: Any) -> bool:
    """Compare observations and infos by value."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, tuple | list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, np.ndarray) and a.dtype != object:
        return np.array_equal(a, b)
    return bool(np.all(a == b))


def play_episode(rng: np.random.Generator) -> None:
    """Play an episode and a twin whose scene has another truth: no reply may tell them apart."""
    config = EpisodeConfig.from_keywords(RULES[rng.integers(len(RULES))])
    scene = HostileScenes(damaged=False)[int(rng.integers(2 * len(SIZES)))]
    other = Scene(**{**vars_of(scene), "boxes": scene.boxes + np.float32(1)})
    episode, twin, blind = Episode(scene, config), Episode(scene, config), Episode(other, config)
    while not episode.done:
        action = hostile_action(rng)
        turn = timed(lambda action=action: episode.step(action))
        again, unaware = twin.step(action), blind.step(action)
        check_turn(turn, config)
        expect(same(seen(turn), seen(again)), f"a twin saw something else after {action[:99]!r}")
        expect(turn.reward == again.reward, f"a twin earned something else by {action[:99]!r}")
        expect(same(seen(turn), seen(unaware)), f"the truth shows in replies to {action[:99]!r}")
        "".join(message.text for message in episode.transcript).encode()
    with contextlib.suppress(DipError):
        episode.step("x")
        raise AssertionError("an action after the end was taken")


def vars_of(scene: Scene) -> dict[str, Any]:
    """Return what a scene is made of."""
    names = ("scene_id", "size", "boxes", "visible_boxes", "visible_share", "ignore", "labels")
    return {**{name: getattr(scene, name) for name in names}, "load_image": scene.load_image}


def seen(turn: Turn) -> tuple[Any, ...]:
    """Return what a policy learns from a turn."""
    text = None if turn.message is None else turn.message.text
    return text, [crop.image for crop in turn.crops], turn.parse_error, turn.terminated


def check_turn(turn: Turn, config: EpisodeConfig) -> None:
    """Check the reward of a turn."""
    most = sum(config.reward.weights.values())
    expect(0 <= turn.reward <= most + 1e-9, f"reward {turn.reward} is not in [0, {most}]")
    if turn.result is not None:
        for name, value in turn.result.terms.as_dict().items():
            expect(0 <= value <= 1, f"{name} {value} is not in [0, 1]")


def play_environment(rng: np.random.Generator) -> None:
    """Play the environment and a twin, with wrong calls that only the first one gets."""
    rules = RULES[rng.integers(len(RULES))]
    env, twin = (gym.make("DIPCrowd-v0", scenes=HostileScenes(), **rules) for _ in range(2))
    seed = int(rng.integers(1000))
    first, second = (one.reset(seed=seed, options={"scene": 0}) for one in (env, twin))
    for _ in range(8):
        expect(same(first, second), "a twin saw something else")
        expect(first[0] in env.observation_space, "an observation is outside of its space")
        first[0]["text"].encode()
        refuse(env, rng)
        if rng.random() < 0.2:
            twin = pickle.loads(pickle.dumps(twin)) if rng.random() < 0.5 else copy.deepcopy(twin)
        if rng.random() < 0.1 or env.unwrapped.episode.done:
            first, second = reset_both(env, twin)
            continue
        action = env.action_space.sample() if rng.random() < 0.2 else hostile_action(rng)
        first = timed(lambda action=action: env.step(action))
        second = twin.step(action)
        expect(0 <= first[1] <= 1 + 1e-9, f"reward {first[1]} is not in [0, 1]")


def reset_both(env: Any, twin: Any) -> tuple[Any, Any]:
    """Reset two environments until they get a scene that can be drawn; both meet the same ones."""
    while True:
        results = []
        for one in (env, twin):
            try:
                results.append(one.reset())
            except DipError as error:
                results.append(str(error))
        expect(isinstance(results[0], str) == isinstance(results[1], str), "resets differ")
        if not isinstance(results[0], str):
            return results[0], results[1]
        # A refused reset takes no number, so the same scene would come again.
        index = int(env.unwrapped.np_random.integers(7))
        twin.unwrapped.np_random.integers(7)
        return env.reset(options={"scene": index}), twin.reset(options={"scene": index})


def refuse(env: Any, rng: np.random.Generator) -> None:
    """Make wrong calls; each must be refused by a documented error."""
    if rng.random() < 0.3:
        call = BAD_RESETS[rng.integers(len(BAD_RESETS))]
        expect(was_refused(lambda: env.reset(**call)), f"reset({call}) was taken")
    if rng.random() < 0.3:
        action = NO_ACTIONS[rng.integers(len(NO_ACTIONS))]
        expect(was_refused(lambda: env.step(action)), f"the action {action!r} was taken")


def was_refused(act: Callable[[], object]) -> bool:
    """Return whether a call raised a documented error; any other is raised."""
    try:
        act()
    except REFUSED:
        return True
    return False


def play_vector_environment(rng: np.random.Generator) -> None:
    """Play groups and their twins."""
    rules = RULES[rng.integers(len(RULES))]
    size = int(rng.choice([1, 2, 3, 4, 8]))
    kwargs = {"group_size": size, "scenes": HostileScenes(damaged=False), **rules}
    envs, twin = (gym.make_vec("DIPCrowd-v0", num_envs=2 * size, **kwargs) for _ in range(2))
    seed = int(rng.integers(1000))
    first, second = (one.reset(seed=seed) for one in (envs, twin))
    for _ in range(6):
        expect(same(first, second), "a twin saw something else")
        expect(first[0] in envs.observation_space, "an observation is outside of its space")
        if rng.random() < 0.3:
            call = BAD_RESETS[rng.integers(len(BAD_RESETS))]
            expect(was_refused(lambda call=call: envs.reset(**call)), f"reset({call}) was taken")
        if rng.random() < 0.3:
            expect(was_refused(lambda: envs.step("x" * 2 * size)), "one string was taken")
        if rng.random() < 0.2:
            twin = copy.deepcopy(twin)
        actions = [hostile_action(rng) for _ in range(2 * size)]
        first = timed(lambda actions=actions: envs.step(actions))
        second = twin.step(actions)
        expect(((first[1] >= 0) & (first[1] <= 1 + 1e-9)).all(), "a reward is not in [0, 1]")

"""Three ways to plug in your own policy: a function, a server, an agent with numeric actions.

python examples/own_policy.py --scenes toy
python examples/own_policy.py --server http://127.0.0.1:8000/v1 --model NAME
"""

import re

import gymnasium as gym
import tyro

from dip_agents import CallablePolicy, ServerPolicy, evaluate, print_results
from dip_agents.evaluation import format_interval
from dip_agents.glimpse import detection_scores, match_counts
from dip_env import EpisodeConfig, make_source
from dip_wrappers.glimpse import Glimpse, GridLooks, SimulatedDetector


def answer(transcript: str) -> str:
    """Look at the middle, then answer that three people stand side by side."""
    width, height = map(int, re.search(r"image (\d+)x(\d+)", transcript).groups())
    if "[assistant]" not in transcript:
        middle = [width // 4, height // 4, 3 * width // 4, 3 * height // 4]
        return f"<think>the middle first</think><look>[{middle}]</look>"
    x = width // 3
    boxes = [[k * x + x // 4, height // 4, (k + 1) * x, height] for k in range(3)]
    return f"<think>three, I guess</think><answer>{boxes}</answer>"


class MostUncertain:
    """Looks into the quarter of highest uncertainty; models of stable-baselines3 fit too."""

    def predict(self, observation: dict, *, deterministic: bool = True) -> tuple[int, None]:
        """Return the number of a quarter."""
        quarters = observation["doubt"].reshape(2, 4, 2, 4).sum(axis=(1, 3))
        return int(quarters.argmax()), None


def main(scenes: str = "toy", n: int = 4, server: str | None = None, model: str = "") -> None:
    source, rules = make_source(scenes, split="val"), EpisodeConfig()
    policies = {"function": CallablePolicy(answer)}
    if server:
        policies["server"] = ServerPolicy(server, model)
    print_results({name: evaluate(p, source, range(n), rules) for name, p in policies.items()})
    env = Glimpse(gym.make("DIPCrowd-v0", scenes=source), SimulatedDetector(), GridLooks((2,)))
    for name, score in detection_scores(match_counts(MostUncertain(), env, range(n))).items():
        print(f"agent with numeric actions: {name} {format_interval(score)}")


if __name__ == "__main__":
    tyro.cli(main)

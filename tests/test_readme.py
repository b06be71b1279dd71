"""What the README says is true of this checkout."""

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_ci_runs_the_test_command_word_for_word():
    (command,) = (block.strip() for block in blocks("bash") if "pytest" in block)
    assert command in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()


def test_both_commands_begin_from_nothing():
    commands = [block.strip() for block in blocks("bash") if "pip install" in block]
    assert len(commands) == 2
    assert all(command.startswith("python3 -m venv .venv && ") for command in commands)
    assert commands[0].endswith(".venv/bin/dip train")


def test_the_ten_lines_run(capsys):
    exec(compile(blocks("python")[0], "README.md", "exec"), {})
    assert "accuracy" in capsys.readouterr().out


def test_the_numeric_environment_is_made_as_it_is_written():
    names = {}
    exec(compile(blocks("python")[1], "README.md", "exec"), names)
    env = names["env"]
    observation, _ = env.reset(seed=0)
    assert env.observation_space.contains(observation)
    assert env.action_space.n == 2 * 2 + 4 * 4 + 1


def test_every_link_into_the_project_leads_somewhere():
    links = re.findall(r"\]\((?!http)([^)]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_reward_table_has_the_default_weights():
    from dip_env.config import RewardConfig

    rows = re.findall(r"^\| (format|look|accuracy) \| ([0-9.]+) \|", README, flags=re.MULTILINE)
    assert {name: float(weight) for name, weight in rows} == RewardConfig().weights


def test_the_actions_shown_are_well_formed():
    from dip_env.actions import Answer, Grammar, Look

    shown = [block for block in blocks("text") if block.startswith("<think>")]
    parsed = [Grammar(max_regions=3).parse(block) for block in shown]
    assert [type(action[-1]) for action in parsed] == [Look, Answer]


def test_no_file_names_a_package_index():
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    names = tracked.stdout.split() if tracked.returncode == 0 else ["README.md"]
    index = re.compile(r"https?://[^ \"]+/simple|--(?:extra-)?index-url")
    texts = [name for name in names if name.endswith((".md", ".toml", ".lock", ".yaml", ".txt"))]
    assert texts
    assert [n for n in texts if index.search((ROOT / n).read_text(encoding="utf-8"))] == []

from __future__ import annotations

import pytest

from dip_agents.cli.commands import COMMANDS
from dip_agents.cli.options import options_of
from dip_agents.cli.settings import as_typed, differences, resolve
from dip_env.errors import ConfigError

TRAIN = COMMANDS["train"].load().Settings


def test_a_file_wins_over_the_models_rules_and_what_is_typed_over_the_file(
    tmp_path, folder, minimal_prompt_rules
):
    path = tmp_path / "c.toml"
    path.write_text(f'model = "{folder}"\nmax_looks = 2\nsteps = 7\nout = "x"\n')
    words = ["--config", str(path), "--steps", "9"]
    found = resolve(TRAIN, "train", words)
    assert found.settings.rules.view_size == minimal_prompt_rules.view_size
    assert found.settings.rules.max_looks == 2
    assert found.settings.grpo.steps == 9
    assert (found.typed, found.file["steps"]) == ({"steps": 9}, 7)
    assert found.values["steps"] == 9


def test_a_value_out_of_range_is_checked_once_with_all_others():
    # 96 is below the default multiple of nothing: both change together and fit.
    found = resolve(TRAIN, "train", ["--size-multiple", "28", "--view-size", "28"])
    assert found.settings.rules.view_size == 28
    with pytest.raises(ConfigError, match="view_size: expected an integer >= 32, got 28"):
        resolve(TRAIN, "train", ["--view-size", "28"])


def test_fields_at_the_beginning_of_a_message_are_named_as_typed():
    options = options_of(TRAIN)
    assert as_typed("group_size: expected 2", options) == "--group-size: expected 2"
    assert as_typed("clip_low, clip_high: x", options) == "--clip-low, --clip-high: x"
    assert as_typed("temperature: expected above 0", options).startswith("--sampling-temperature:")
    for other in ("a file: is gone", "/a/b.json: expected JSON", "reward weights: expected one"):
        assert as_typed(other, options) == other


def test_differences_name_each_setting_that_is_another():
    saved = {"scenes": "night", "steps": 3, "n": 2}
    given = {"scenes": "easy", "steps": 5, "n": 2, "unknown": 1}
    assert differences(saved, given, {"steps"}) == ["--scenes: 'night' there, 'easy' here"]


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in ("score", "compare")])
def test_every_setting_has_one_option(name):
    settings = COMMANDS[name].load().Settings
    assert len({option.name for option in options_of(settings)}) == len(options_of(settings))

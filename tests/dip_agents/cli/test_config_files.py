from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dip_agents.cli.config_files import config_toml, read_config
from dip_agents.cli.options import UsageError, options_of


@dataclass(frozen=True)
class Some:
    """Some."""

    steps: int = 1
    """Steps."""
    rate: float = 0.1
    """Rate."""
    name: str = ""
    """Name."""
    root: Path | None = None
    """Root."""
    fast: bool = False
    """Fast."""
    parts: tuple[str, ...] = ()
    """Parts."""
    kind: Literal["a", "b"] = "a"
    """Kind."""


OPTIONS = options_of(Some)


@given(
    st.fixed_dictionaries(
        {
            "steps": st.integers(-(10**12), 10**12),
            "rate": st.floats(allow_nan=False, allow_infinity=False),
            "name": st.text(st.characters(exclude_categories=["Cs"])),
            "root": st.none() | st.just(Path("a b/c")),
            "fast": st.booleans(),
            "parts": st.lists(st.text(st.characters(exclude_categories=["Cs"]))).map(tuple),
            "kind": st.sampled_from(["a", "b"]),
        }
    ),
    st.booleans(),
)
def test_what_is_written_is_read_back(tmp_path_factory, values, notes):
    path = tmp_path_factory.mktemp("config") / "config.toml"
    path.write_text(config_toml("train", OPTIONS, values, notes=notes), encoding="utf-8")
    assert read_config(path, "train", OPTIONS) == values


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("c.toml", 'steps = 3\nrate = 1e-5\nparts = ["x"]\nroot = "none"\nfast = true\n'),
        ("c.yaml", "steps: 3\nrate: 1e-5\nparts: [x]\nroot: null\nfast: true\n"),
        ("c.json", '{"steps": 3, "rate": 1e-5, "parts": ["x"], "root": null, "fast": true}'),
    ],
)
def test_three_forms_say_the_same(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    found = read_config(tmp_path / name, "train", OPTIONS)
    assert found == {"steps": 3, "rate": 1e-5, "parts": ("x",), "root": None, "fast": True}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "c.toml",
            "rate = 1.0\nstepz = 3\n",
            "c.toml, line 2: stepz: expected the name",
        ),
        ("c.toml", "stepz = 3\n", "did you mean 'steps'?"),
        (
            "c.yaml",
            "rate: 1.0\nsteps: many\n",
            "c.yaml, line 2: steps: expected an integer",
        ),
        ("c.json", '{\n "rate": 1,\n "fast": 1\n}', "c.json, line 3: fast: expected true or false"),
        ("c.toml", "name = 3\n", "line 1: name: expected text in quotes, got 3"),
        ("c.toml", "steps = true\n", "line 1: steps: expected an integer, got 'true'"),
        ("c.toml", 'parts = "x"\n', "line 1: parts: expected a list, got 'x'"),
        ("c.toml", "[steps]\na = 1\n", "steps: expected one value"),
        ("c.toml", 'command = "sft"\n', "command: expected 'train', got 'sft'"),
        ("c.toml", "steps = \n", "c.toml: Invalid value"),
        ("c.yaml", "steps: [1\n", "c.yaml: while parsing"),
        ("c.json", "{", "c.json: Expecting"),
        ("c.json", '{"steps": 3, "steps": 4}', "c.json: got 'steps' twice"),
        ("c.yaml", "steps: 3\nsteps: 4\n", "c.yaml: got 'steps' twice"),
        ("c.json", "[1]", "expected keys with values, got list"),
        ("c.yaml", "1: 2\n", "line 1: 1: expected the name of an option"),
        ("c.toml", "[grpo]\nsteps = 1\n", "all options stand at the top of the file, in no table"),
        ("c.toml", "rate = nan\n", "rate: expected a finite number, got 'nan'"),
        ("c.txt", "", "expected a .toml, .yaml, .yml or .json file"),
    ],
)
def test_what_is_wrong_in_a_file_is_named_with_file_line_and_key(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(UsageError) as error:
        read_config(tmp_path / name, "train", OPTIONS)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@dataclass(frozen=True)
class TwoWords:
    """Settings."""

    group_size: int = 8
    """Rollouts."""


def test_an_option_in_two_spellings_is_refused(tmp_path):
    path = tmp_path / "c.toml"
    path.write_text("group_size = 4\ngroup-size = 8\n")
    with pytest.raises(UsageError, match="line 2: group-size: expected group_size once"):
        read_config(path, "train", options_of(TwoWords))


def test_a_file_that_is_missing_or_no_text_is_one_line(tmp_path):
    with pytest.raises(UsageError, match=r"nowhere.toml: No such file"):
        read_config(tmp_path / "nowhere.toml", "train", OPTIONS)
    (tmp_path / "c.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match=r"c\.json: .*can't decode"):
        read_config(tmp_path / "c.json", "train", OPTIONS)


@pytest.mark.parametrize("suffix", ["json", "toml"])
def test_a_file_nested_too_deep_is_named(tmp_path, suffix):
    path = tmp_path / f"deep.{suffix}"
    path.write_text(("steps = " if suffix == "toml" else "") + "[" * 200_000)
    with pytest.raises(UsageError, match=rf"deep\.{suffix}: "):
        read_config(path, "train", OPTIONS)

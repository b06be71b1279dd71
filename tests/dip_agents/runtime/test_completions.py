"""The completions table keeps every generated text, for programs and for eyes."""

import json

import numpy as np
import pytest

from dip_agents.runtime.completions import drop_steps_after, write_completions


def rows(step=3):
    def row(member, text, reward, advantage):
        image = np.zeros((2, 3, 3), np.uint8)
        return {
            "step": step,
            "scene": 41,
            "member": member,
            "reward": reward,
            "terms": {"look": np.float32(0.5)},
            "advantage": advantage,
            "length": 3,
            "policy_tokens": 2,
            "turns": 1,
            "regions": np.int64(2),
            "ending": "answer",
            "transcript": (
                {"role": "user", "text": "Find é", "image": image},
                {"role": "assistant", "text": text},
            ),
        }

    return [row(0, "<answer>[]", 0.0, -1.0), row(1, "```", 1.0, 1.0)]


def test_each_row_is_one_json_line_with_all_texts(tmp_path):
    path = write_completions(tmp_path / "completions", rows())
    assert path.name == "step_000003.jsonl"
    first, second = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    assert first == {
        "step": 3,
        "scene": 41,
        "member": 0,
        "reward": 0.0,
        "terms": {"look": 0.5},
        "advantage": -1.0,
        "length": 3,
        "policy_tokens": 2,
        "turns": 1,
        "regions": 2,
        "ending": "answer",
        "transcript": [
            {"role": "user", "text": "Find é", "image": "image (2, 3, 3)"},
            {"role": "assistant", "text": "<answer>[]"},
        ],
    }
    assert (second["member"], second["advantage"]) == (1, 1.0)


def test_the_readable_table_fences_texts_even_when_they_hold_a_fence(tmp_path):
    text = write_completions(tmp_path, rows()).with_suffix(".md").read_text(encoding="utf-8")
    assert "## Step 3, scene 41, member 0" in text
    assert "reward 1.000 (look 0.500), advantage +1.000" in text
    assert "```\n<answer>[]\n```" in text
    assert "````\n```\n````" in text


def test_tables_of_later_steps_are_dropped_and_other_files_stay(tmp_path):
    for step in (1, 2, 3):
        write_completions(tmp_path, rows(step))
    (tmp_path / "notes.md").write_text("mine")
    (tmp_path / "step_by_step.md").write_text("mine")
    drop_steps_after(tmp_path, 1)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["notes.md", "step_000001.jsonl", "step_000001.md", "step_by_step.md"]
    drop_steps_after(tmp_path / "absent", 1)


def test_a_value_that_is_not_json_is_an_error_not_a_guess(tmp_path):
    bad = [row | {"transcript": [{"role": "user", "text": "", "x": object()}]} for row in rows()]
    with pytest.raises(TypeError, match="expected a JSON value, got object"):
        write_completions(tmp_path, bad)

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
HAS_VLLM = importlib.util.find_spec("vllm") is not None


def check(*arguments):
    return subprocess.run(
        [sys.executable, str(EXAMPLES / "vllm_check.py"), *arguments],
        capture_output=True,
        text=True,
        timeout=600,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.skipif(HAS_VLLM, reason="vllm is installed")
def test_without_vllm_it_names_the_package_in_one_line():
    done = check()
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: engine: vllm expects the package vllm")
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.timeout(700)
@pytest.mark.skipif(not HAS_VLLM, reason="vllm is not installed in this environment")
@pytest.mark.parametrize("weight_sync", ["merged", "adapter"])
def test_vllm_plays_the_policy_that_is_trained(weight_sync):
    done = check("--weight-sync", weight_sync)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(re.findall(r"^step \d: gap to the trainer", done.stdout, re.M)) == 3


@pytest.mark.slow
@pytest.mark.timeout(700)
@pytest.mark.skipif(not HAS_VLLM, reason="vllm is not installed in this environment")
def test_a_gap_above_the_limit_fails():
    done = check("--limit", "1e-9", "--steps", "1")
    assert done.returncode == 1
    assert "FAILED step 1: expected a mean gap of at most 1e-09" in done.stdout

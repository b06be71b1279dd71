import inspect
import subprocess
import sys

import pytest

from dip_agents.models.base import VisionLanguageModel


def members() -> list[str]:
    declared = vars(VisionLanguageModel)
    methods = [name for name, value in declared.items() if not name.startswith("_")]
    return sorted({*methods, *inspect.get_annotations(VisionLanguageModel)} - {"register"})


@pytest.mark.parametrize("family", ["qwen3_vl", "llava"])
def test_models_of_all_families_have_every_member_of_the_protocol(micro, generic_micro, family):
    vlm = generic_micro(family) if family == "llava" else micro(family)
    assert {"chat", "shares_prefix", "token_logprobs", "without_adapter"} <= set(members())
    assert [name for name in members() if not hasattr(vlm, name)] == []


def test_what_a_family_can_do_is_read_from_the_model(micro, generic_micro):
    def capabilities(vlm):
        return (vlm.gives_image_features, vlm.shardable, vlm.runs_in_vllm, vlm.native_engine)

    assert capabilities(micro("qwen3_vl")) == (True, True, True, "hf")
    assert capabilities(generic_micro("llava")) == (False, False, False, "generic")


def test_the_protocol_loads_without_torch():
    code = "import sys, dip_agents.models.base; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"

import threading

import pytest
import torch

from dip_agents.engines.replies import environment_executor


@pytest.mark.parametrize(("device", "beside"), [("cpu", False), ("cuda", True)])
def test_replies_are_computed_beside_the_decoding_only_where_that_is_on_a_gpu(device, beside):
    with environment_executor(torch.device(device)) as environment:
        thread = environment.submit(threading.current_thread).result()
    assert (thread is not threading.current_thread()) == beside


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_an_error_of_the_environment_is_raised_where_its_reply_is_read(device):
    with environment_executor(torch.device(device)) as environment:
        reply = environment.submit(int, "no number")
        with pytest.raises(ValueError, match="no number"):
            reply.result()

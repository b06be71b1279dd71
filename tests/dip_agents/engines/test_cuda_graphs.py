import torch

from dip_agents.engines.cuda_graphs import GraphedDecoder, graphed, round_width
from dip_agents.engines.decoder import TextDecoder


class Recorder:
    """Stands for CUDA graphs on a CPU: replays into the same output tensor."""

    def __init__(self):
        self.count = 0

    def __call__(self, work):
        self.count += 1
        out = work()

        def replay():
            out.copy_(work())

        return replay, out


def test_replayed_steps_equal_plain_ones_and_leave_other_rows_alone(micro):
    vlm = micro("qwen3_vl")
    recorder = Recorder()
    plain, replayed = TextDecoder(vlm), GraphedDecoder(TextDecoder(vlm), recorder)
    plain.refresh(), replayed.refresh()
    ids = torch.randint(5, 900, (4, 6), generator=torch.Generator().manual_seed(0))
    caches = plain.new_cache(16, 12), replayed.new_cache(16, 12)
    for cache in caches:
        cache.reserve(12)
        cache.store[:, :, 4:] = 7.0
    for t in range(6):
        n = 4 if t < 3 else 2  # two rows end
        at = torch.full((n,), t)
        states = [
            decoder.feed(cache, ids[:n, t], at, at, t + 1)
            for decoder, cache in zip((plain, replayed), caches, strict=True)
        ]
        torch.testing.assert_close(states[1], states[0], atol=2e-4, rtol=1e-4)
    torch.testing.assert_close(caches[1].store, caches[0].store, atol=2e-4, rtol=1e-4)
    assert recorder.count == 2  # 4 rows, then 2


def test_a_cache_that_is_large_enough_keeps_its_graphs_and_a_larger_one_drops_them(micro):
    recorder = Recorder()
    decoder = GraphedDecoder(TextDecoder(micro("qwen3_vl")), recorder)
    decoder.refresh()
    one = torch.zeros(1, dtype=torch.long)
    first = decoder.new_cache(2, 8)
    for slots, capacity in ((2, 8), (1, 8), (2, 5)):
        assert decoder.new_cache(slots, capacity) is first
        decoder.feed(first, one, one, one, 1)
    assert recorder.count == 1
    other = decoder.new_cache(1, 9)
    assert other is not first
    assert (other.slots, other.capacity) == (2, 9)  # never smaller than before
    decoder.feed(other, one, one, one, 1)
    assert recorder.count == 2


def test_widths_are_rounded_up_but_never_past_what_there_is():
    assert [round_width(w, 600) for w in (1, 256, 257, 520)] == [256, 256, 512, 600]


def test_a_cpu_has_no_graphs(micro):
    decoder = TextDecoder(micro("qwen3_vl"))
    assert graphed(decoder, torch.device("cpu")) is decoder

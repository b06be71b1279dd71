import torch

from dip_agents.engines.slot_cache import SlotCache


def make():
    cache = SlotCache(1, 3, 1, 4, 2, torch.float32, torch.device("cpu"))
    cache.store[0, 0, :, 0, :4, 0] = torch.arange(12.0).view(3, 4)
    return cache


def keys(cache):
    return cache.store[0, 0, :, 0, :4, 0].tolist()


def test_rows_change_slots_all_at_once():
    cache = make()
    cache.move([2, 0], [0, 2], 3)
    assert keys(cache) == [[8, 9, 10, 3], [4, 5, 6, 7], [0, 1, 2, 11]]


def test_columns_of_one_slot_can_be_put_into_several():
    cache = make()
    held = cache.columns(1, 2)
    cache.store.zero_()
    cache.put([0, 2], held)
    assert keys(cache) == [[4, 5, 0, 0], [0, 0, 0, 0], [4, 5, 0, 0]]


def test_every_row_writes_at_its_own_columns_and_padding_goes_to_scratch():
    cache = make()
    cache.set_write_positions(torch.tensor([2, 0]), torch.tensor([[1, 2], [3, 4]]), 4)
    new = torch.tensor([[[[50.0, 0], [51, 0]]], [[[60.0, 0], [61, 0]]]])
    read, _ = cache.update(new, new, 0)
    assert keys(cache) == [[0, 1, 2, 60], [4, 5, 6, 7], [8, 50, 51, 11]]
    assert read[:, 0, :, 0].tolist() == [[8, 50, 51, 11], [0, 1, 2, 60]]


def test_few_sizes_are_fed_and_never_more_than_there_are_slots():
    cache = SlotCache(1, 100, 1, 1, 1, torch.float32, torch.device("cpu"))
    fed = {n: n + cache.padding(n) for n in (1, 2, 3, 5, 8, 9, 17, 96, 97, 100)}
    assert list(fed.values()) == [1, 2, 4, 8, 8, 16, 24, 96, 100, 100]

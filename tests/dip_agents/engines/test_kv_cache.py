import torch

from dip_agents.engines.kv_cache import RowCache


def write(cache, rows, slots, value, width):
    batch, length = len(slots), len(slots[0])
    cache.aim(None if rows is None else torch.tensor(rows), torch.tensor(slots), width)
    new = torch.full((batch, 1, length, 2), float(value))
    return cache.update(new, 2 * new, 0)


def test_each_row_writes_at_its_own_slot_and_reads_its_own_past():
    cache = RowCache(layers=1, rows=2, capacity=4)
    write(cache, None, [[0, 1], [0, 4]], 1.0, 2)  # slot 4 is scratch: row 1 is shorter
    keys, values = write(cache, [1], [[1]], 5.0, 2)
    assert keys[0, 0, :, 0].tolist() == [1.0, 5.0]
    assert values[0, 0, :, 0].tolist() == [2.0, 10.0]
    keys, _ = write(cache, [0], [[2]], 7.0, 3)
    assert keys[0, 0, :, 0].tolist() == [1.0, 1.0, 7.0]


def test_repeated_rows_begin_equal_and_then_part():
    cache = RowCache(layers=1, rows=1, capacity=3)
    write(cache, None, [[0]], 1.0, 1)
    cache.repeat(2)
    keys, _ = write(cache, [1], [[1]], 9.0, 2)
    assert keys[0, 0, :, 0].tolist() == [1.0, 9.0]
    keys, _ = write(cache, [0], [[1]], 3.0, 2)
    assert keys[0, 0, :, 0].tolist() == [1.0, 3.0]


def test_kept_rows_keep_their_past():
    cache = RowCache(layers=1, rows=3, capacity=2)
    write(cache, None, [[0], [0], [0]], 1.0, 1)
    write(cache, [2], [[1]], 8.0, 2)
    cache.keep(torch.tensor([2]))
    keys, _ = write(cache, [0], [[2]], 0.0, 2)
    assert keys[0, 0, :, 0].tolist() == [1.0, 8.0]

from dip_agents.runtime.seeds import derived_seed


def test_seeds_differ_in_every_part():
    seeds = {derived_seed(a, b, c) for a in range(4) for b in range(4) for c in range(4)}
    assert len(seeds) == 64
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derived_seed(1, 23) != derived_seed(12, 3)

import torch

from dip_agents.models.feature_cache import FeatureCache


def features(value):
    return torch.full((2, 3), float(value)), [torch.full((2, 3), -float(value))]


def test_what_was_added_is_known_until_the_weights_change():
    cache = FeatureCache()
    assert cache.known([b"a"], version=1) == {}
    cache.add({b"a": features(1)})
    embeds, layers = cache.known([b"a", b"b"], version=1)[b"a"]
    assert (float(embeds[0, 0]), float(layers[0][0, 0])) == (1, -1)
    assert cache.size == 2 * 2 * 3 * 4
    assert cache.known([b"a"], version=2) == {}
    assert cache.size == 0


def test_nothing_is_kept_beyond_the_limit():
    cache = FeatureCache(limit=50)  # one image has 48 bytes
    cache.known([], version=1)
    cache.add({b"a": features(1), b"b": features(2)})
    assert list(cache.known([b"a", b"b"], version=1)) == [b"a"]

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from dip_agents.models.tiny.model import (
    POSITION_SCALE,
    build_tiny,
    fourier_integers,
    fourier_positions,
)
from dip_agents.models.tiny.tokenizer import INTEGER_ROLES
from dip_agents.models.tiny.vocabulary import tiny_texts


def test_the_auto_classes_read_what_was_saved(tmp_path):
    for family in ("qwen3_vl", "qwen2_5_vl"):
        model, processor = build_tiny(tiny_texts(), family=family, size="micro")
        model.save_pretrained(tmp_path / family)
        processor.save_pretrained(tmp_path / family)
        again = AutoModelForImageTextToText.from_pretrained(tmp_path / family)
        assert type(again) is type(model)
        assert all(
            torch.equal(a, b)
            for a, b in zip(again.state_dict().values(), model.state_dict().values(), strict=True)
        )
        reader = AutoProcessor.from_pretrained(tmp_path / family)
        text = "<think>3 people.</think>"
        assert reader.tokenizer.encode(text) == processor.tokenizer.encode(text)


def test_the_tiny_size_fits_twelve_megabytes_in_bfloat16():
    model, _ = build_tiny(tiny_texts())
    assert 4e6 < sum(p.numel() for p in model.parameters()) < 6e6


def test_the_seed_decides_the_weights():
    a, b, c = (build_tiny(tiny_texts(), seed=s, size="micro")[0] for s in (0, 0, 1))
    weights = [m.lm_head.weight for m in (a, b, c)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_neighbouring_integers_begin_close_and_far_ones_apart():
    weight = torch.zeros(2100, 256)
    fourier_integers(weight, seed=0)
    for ids in INTEGER_ROLES.values():
        rows = weight[ids.start : ids.start + 384]
        unit = torch.nn.functional.normalize(rows - rows.mean(0), dim=1)
        near = (unit[:-1] * unit[1:]).sum(1).mean()
        far = (unit[:-60] * unit[60:]).sum(1).mean()
        assert near > 0.85
        assert far < 0.5
    assert not weight[2025:].any()


def test_roles_of_an_integer_begin_apart():
    weight = torch.zeros(2100, 256)
    fourier_integers(weight, seed=0)
    comma, item = (INTEGER_ROLES[role].start for role in (",", "],["))
    assert float((weight[7] - weight[comma + 7]).norm()) > 0.1
    # The difference is the same for all numbers: what a number is stays readable.
    torch.testing.assert_close(
        weight[comma + 7] - weight[item + 7], weight[comma + 99] - weight[item + 99]
    )


def test_positions_of_a_row_share_half_of_their_embedding_and_neighbours_are_close():
    table = torch.zeros(64, 32)
    fourier_positions(table)
    grid = table.view(8, 8, 32)
    assert torch.equal(grid[3, 1, :16], grid[3, 6, :16])
    assert torch.equal(grid[1, 3, 16:], grid[6, 3, 16:])
    # Pairs of sine and cosine: every embedding is as long as any other.
    torch.testing.assert_close(table.norm(dim=1), torch.full((64,), POSITION_SCALE * 4.0))
    near = (grid[2, 2] - grid[2, 3]).norm()
    assert near < (grid[2, 2] - grid[2, 7]).norm()

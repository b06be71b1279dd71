from dataclasses import replace

import pytest

from dip_agents.sft.config import SFTConfig, sigma_at
from dip_env.errors import ConfigError


def test_coordinates_sharpen_while_the_rate_falls():
    config = SFTConfig(steps=10, decay_steps=4, coordinate_sigma=1.5, final_sigma=0.5)
    widths = [sigma_at(step, config) for step in (1, 6, 8, 10)]
    assert widths == [1.5, 1.5, 1.0, 0.5]
    assert sigma_at(10, replace(config, final_sigma=None)) == 1.5


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("steps", 0),
        ("learning_rate", 0.0),
        ("p_no_look", 1.5),
        ("p_blurred_overview", 1.5),
        ("p_blurred_overview", -0.1),
        ("p_blurred_overview", 0.1),  # people that cannot be seen would be answered
        ("look", "up"),
        ("final_sigma", 2.0),
        ("optimizer", "sgd"),
    ],
)
def test_settings_out_of_range_name_their_field(field, value):
    with pytest.raises(ConfigError, match=field):
        SFTConfig(**{field: value})

from .rewards import dip_rewards as dip_rewards
from .rewards import single_pass_reward as single_pass_reward
from .sampling import banned_tokens as banned_tokens
from .template import use_tool_template as use_tool_template
from .trainer import environment_factory as environment_factory
from .trainer import trl_dataset as trl_dataset

from .agent_loop import AGENT_LOOP_YAML as AGENT_LOOP_YAML
from .agent_loop import DIPCrowdLoop as DIPCrowdLoop
from .dataset import group_rewards as group_rewards
from .dataset import write_dataset as write_dataset

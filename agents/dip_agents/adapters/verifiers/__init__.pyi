from .env import CrowdEnv as CrowdEnv
from .env import CrowdTaskset as CrowdTaskset
from .harness import CrowdHarness as CrowdHarness

from .actions import Answer as Answer
from .actions import Grammar as Grammar
from .actions import Look as Look
from .actions import Think as Think
from .config import EpisodeConfig as EpisodeConfig
from .config import RewardConfig as RewardConfig
from .env import DIPCrowdEnv as DIPCrowdEnv
from .episode import Episode as Episode
from .errors import DipError as DipError
from .group import EpisodeGroup as EpisodeGroup
from .messages import Message as Message
from .messages import Observation as Observation
from .messages import Turn as Turn
from .result import Ending as Ending
from .result import EpisodeResult as EpisodeResult
from .scenes.base import Scene as Scene
from .scenes.base import SceneSource as SceneSource
from .scenes.sources import make_source as make_source
from .scenes.toy import ToyScenes as ToyScenes
from .vector_env import DIPCrowdVectorEnv as DIPCrowdVectorEnv

__version__: str

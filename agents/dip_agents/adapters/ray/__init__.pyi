from .vector_env import RayVectorEnv as RayVectorEnv
from .workers import WorkerDiedError as WorkerDiedError
from .workers import WorkersNotStartedError as WorkersNotStartedError
from .workers import WorkerTimeoutError as WorkerTimeoutError

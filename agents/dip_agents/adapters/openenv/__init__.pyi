from .client import CrowdAction as CrowdAction
from .client import CrowdClient as CrowdClient
from .client import CrowdObservation as CrowdObservation
from .client import CrowdState as CrowdState
from .server import make_app as make_app

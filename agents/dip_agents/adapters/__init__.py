"""One environment, many trainers: each subpackage is a thin layer over ``dip_env.Episode``.

Every adapter takes its scenes and rules as the keywords of ``gym.make("DIPCrowd-v0", ...)``. The
library of a trainer is imported by the first use of a name from its subpackage.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)

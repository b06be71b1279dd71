"""Who acts and how they learn: policies, engines, supervised fine-tuning and GRPO.

The names below are loaded when they are used, so that importing this package loads no torch.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)

"""One environment, many trainers: each module is a thin skin over ``dip_env.Episode``.

Every adapter is told its scenes and rules in the keywords of ``gym.make("DIPCrowd-v0", ...)`` and
imports its trainer's library in its own module only.
"""

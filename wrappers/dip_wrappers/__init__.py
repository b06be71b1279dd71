"""The environment seen another way: as a chat, and as a record on disk."""

from dip_wrappers.chat import ChatObservation, to_chat
from dip_wrappers.traces import EpisodeTrace, TraceWriter, load_traces, replay, rescore

__all__ = [
    "ChatObservation",
    "EpisodeTrace",
    "TraceWriter",
    "load_traces",
    "replay",
    "rescore",
    "to_chat",
]

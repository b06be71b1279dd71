"""Wrappers of the environment: chat messages, traces on disk, and controls of what is seen."""

from dip_wrappers.chat import ChatObservation, to_chat
from dip_wrappers.controlled import Control, LookControl
from dip_wrappers.traces import EpisodeTrace, TraceWriter, load_traces, replay, rescore

__all__ = [
    "ChatObservation",
    "Control",
    "EpisodeTrace",
    "LookControl",
    "TraceWriter",
    "load_traces",
    "replay",
    "rescore",
    "to_chat",
]

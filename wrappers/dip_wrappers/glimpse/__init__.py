"""The environment with numeric spaces, for stable-baselines3 and other agents that do not speak."""

from dip_wrappers.glimpse.detections import Detections
from dip_wrappers.glimpse.detectors import Detector, ImageDetector, Sight
from dip_wrappers.glimpse.looks import BoxLooks, GridLooks, Looks
from dip_wrappers.glimpse.simulated import SimulatedDetector
from dip_wrappers.glimpse.wrapper import Glimpse

__all__ = [
    "BoxLooks",
    "Detections",
    "Detector",
    "Glimpse",
    "GridLooks",
    "ImageDetector",
    "Looks",
    "Sight",
    "SimulatedDetector",
]

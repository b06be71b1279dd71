"""The environment with numeric spaces, for stable-baselines3 and other numeric agents."""

from dip_wrappers.glimpse.detections import AnswerRule, Detections
from dip_wrappers.glimpse.detectors import Detector, DetectorInput, ImageDetector
from dip_wrappers.glimpse.looks import BoxLooks, GridLooks, Looks
from dip_wrappers.glimpse.observations import ObservationSizes
from dip_wrappers.glimpse.simulated import SimulatedDetector
from dip_wrappers.glimpse.wrapper import Glimpse

__all__ = [
    "AnswerRule",
    "BoxLooks",
    "Detections",
    "Detector",
    "DetectorInput",
    "Glimpse",
    "GridLooks",
    "ImageDetector",
    "Looks",
    "ObservationSizes",
    "SimulatedDetector",
]

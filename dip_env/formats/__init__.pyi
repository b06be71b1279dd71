from .box_sets import BoxSet as BoxSet
from .box_sets import Detections as Detections
from .box_sets import Truth as Truth
from .coco_json import as_detections as as_detections
from .coco_json import as_truth as as_truth
from .coco_json import read_detections as read_detections
from .coco_json import read_truth as read_truth

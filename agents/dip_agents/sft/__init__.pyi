from .config import SFTConfig as SFTConfig
from .demonstrations import Demonstration as Demonstration
from .demonstrations import DemonstrationDataset as DemonstrationDataset
from .run import train_sft as train_sft
from .trainer import SFTTrainer as SFTTrainer

from .kinds import Variation as Variation
from .kinds import standard_controls as standard_controls
from .kinds import variations as variations
from .markdown import experiment_markdown as experiment_markdown
from .pictures import looking_sheet as looking_sheet
from .plot import experiment_plot as experiment_plot
from .report import ExperimentReport as ExperimentReport
from .run import run_experiment as run_experiment

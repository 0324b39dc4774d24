"""What is learned: each objective turns the model's features of a batch into named losses; their sum is minimised."""

from .base import Features, Objective
from .clip import ImageReportContrast
from .fvlm import OrganContrast
from .questions import WithQuestions
from .supervised import SupervisedHead

__all__ = ["Features", "ImageReportContrast", "Objective", "OrganContrast", "SupervisedHead", "WithQuestions"]

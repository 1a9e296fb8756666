"""What a recipe would meet, looked at before a long run."""

from svdistill.jobs.doctor.examine import examine
from svdistill.jobs.doctor.findings import Diagnosis, Remark

__all__ = ["Diagnosis", "Remark", "examine"]

"""A trained network for other programs: exported, quantized, compared."""

from svdistill.jobs.deployment.export import Export, Measured, Pictures, export

__all__ = ["Export", "Measured", "Pictures", "export"]

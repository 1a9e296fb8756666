"""Tables and figures, made from records alone: no model and no GPU is needed."""

from svdistill.report import plots, tables

__all__ = ["plots", "tables"]

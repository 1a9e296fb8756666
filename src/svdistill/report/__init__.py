"""Tables and figures, made from records alone: no model and no GPU is needed.

The modules that draw, among them `plots` and `page`, need matplotlib, an extra: import them by name.
"""

from svdistill.report import tables

__all__ = ["tables"]

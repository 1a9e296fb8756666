"""A run told to trackers, such as MLflow: settings, figures, files. What they do changes no result and ends no run."""

from svdistill.trackers.tracking import Tracking

__all__ = ["Tracking"]

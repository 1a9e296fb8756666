"""A transfer loss for tests, of which only the comparison is left to be written."""

from svdistill.losses.maps import number, numbered
from svdistill.losses.protocol import TransferLoss


class PlainLoss(TransferLoss):
    """Its goal is the teacher's side itself; ``reads`` and ``compare`` are to be added."""

    def extract(self, teacher, student):
        """Return the teacher's side."""
        return teacher

    def pack(self, goal):
        """Name the logits, or the maps."""
        return {"logits": goal} if self.reads == "logits" else number("map", goal)

    def unpack(self, stored):
        """Return the logits, or the maps."""
        return stored["logits"] if self.reads == "logits" else numbered(stored, "map")

"""What all hand-written derivatives have in common."""

import torch


def refuse_second_derivative() -> None:
    """Raise NotImplementedError in a backward pass that is itself to be differentiated.

    Without this the second derivative would be zero in silence.
    """
    if torch.is_grad_enabled():
        raise NotImplementedError("svdistill has no second derivative; call backward or grad without create_graph=True")

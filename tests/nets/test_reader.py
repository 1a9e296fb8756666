"""A network as the losses see it."""

import pytest
import torch
from torch import nn

from svdistill.errors import ShapeError
from svdistill.nets.reader import run_tapped


@pytest.mark.parametrize("batch_first", [False, True])
def test_the_number_of_images_comes_first(batch_first: bool) -> None:
    """A transformer that takes positions first is refused: its positions would be taken for images."""

    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=batch_first)
            self.head = nn.Linear(8, 3)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            tokens = images.flatten(2).mT  # (B, N, 8)
            out = self.layer(tokens if batch_first else tokens.transpose(0, 1))
            return self.head(out.mean(1 if batch_first else 0))

    network, images = Tokens().eval(), torch.rand(6, 8, 4, 4)
    if batch_first:
        logits, (found,) = run_tapped(network, ["layer"], images)
        assert (logits.shape, found.shape) == ((6, 3), (6, 16, 8))
        return
    with pytest.raises(ShapeError, match=r"tap 'layer' of the network gives \(16, 6, 8\) for 6 images"):
        run_tapped(network, ["layer"], images)

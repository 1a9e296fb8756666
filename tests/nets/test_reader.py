"""A network as the losses see it."""

import pytest
import torch
from torch import nn

from svdistill.choices import Layout
from svdistill.errors import ShapeError
from svdistill.nets.reader import Reader, run_tapped


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


class Square(nn.Module):
    """A map with as many channels as rows and columns."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        self.last = nn.ReLU()
        self.head = nn.Linear(64, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 1, 8, 8) to (B, 3)."""
        return self.head(self.last(self.block(images)).flatten(1))


def test_a_compiled_network_is_told_by_what_is_in_its_taps() -> None:
    """It runs no hooks; where a tap has no layer inside, it is asked for."""
    images = torch.randn(2, 1, 8, 8)

    def run(tap: str, layout: Layout | None = None) -> tuple[nn.Module, torch.Tensor]:
        torch.compiler.reset()  # code that has run once does not notice that it is tapped elsewhere
        network = Square()
        network.compile(backend="eager")
        return network, Reader(network, [tap], layout=layout).run(network, images)[1][0]

    network, feature = run("block")
    assert torch.equal(feature, network.get_submodule("block")(images))
    with pytest.raises(ShapeError, match=r"does not show where its channels are"):
        run("last")
    assert run("last", "channels_first")[1].shape == (2, 4, 4, 4)

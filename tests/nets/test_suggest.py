"""Tests of the taps that are suggested, and of how those of two networks are paired."""

import pytest
import torch
from tests.nets.test_foreign import installed
from torch import Tensor, nn

from svdistill.errors import OptionError, ShapeError, SvdistillWarning
from svdistill.nets import Taps, create, default_taps, suggest, suggest_pair
from svdistill.nets.trace import trace

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


class Block(nn.Module):
    """A residual block with squeeze and excitation: two ways around, and a map of one position in between."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, after, 3, stride, 1)
        self.squeeze = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(after, after, 1), nn.Sigmoid())
        self.around = nn.Conv2d(before, after, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Run it."""
        y = self.conv(x)
        return torch.relu(y * self.squeeze(y) + self.around(x))


class Residual(nn.Module):
    """Three stages behind a stem, average pooling without a module, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.stages = nn.ModuleList(
            nn.Sequential(Block(width // 2, width, 2), Block(width, width, 1)) for width in (16, 32)
        )
        self.head = nn.Sequential(nn.Dropout(0.5), nn.Linear(32, 5))

    def forward(self, images: Tensor) -> Tensor:
        """Run it."""
        x = self.stem(images)
        for stage in self.stages:
            x = stage(x)
        return self.head(x.mean(dim=(2, 3)))


class Transformer(nn.Module):
    """Eight equal blocks over 16 patches and a class token, which the head reads."""

    def __init__(self, depth: int = 8, width: int = 16, *, token_alone: bool = False) -> None:
        super().__init__()
        self.end = 1 if token_alone else None
        self.patches = nn.Conv2d(3, width, 8, 8)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        layer = nn.TransformerEncoderLayer(width, 2, 2 * width, batch_first=True)
        self.blocks = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 5)

    def forward(self, images: Tensor) -> Tensor:
        """Run it."""
        x = self.patches(images).flatten(2).mT
        x = torch.cat([self.token.expand(len(x), -1, -1), x], dim=1)
        return self.head(self.norm(self.blocks(x)[:, : self.end])[:, 0])


class Windowed(nn.Module):
    """As Swin is in transformers: stages in a list, which give tuples as their blocks do; a head called by keyword."""

    class Block(nn.Module):
        """Gives a map and None."""

        def __init__(self, width: int) -> None:
            super().__init__()
            self.mlp = nn.Linear(width, width)

        def forward(self, x: Tensor) -> tuple[Tensor, None]:
            """Run it."""
            return x + self.mlp(x), None

    class Stage(nn.Module):
        """Gives its map behind and before the step to the next resolution."""

        def __init__(self, width: int) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(Windowed.Block(width) for _ in range(2))
            self.down = nn.Linear(4 * width, 2 * width)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            """Run it."""
            for block in self.blocks:
                x, _ = block(x)
            return self.down(x.reshape(len(x), x.shape[1] // 4, -1)), x

    class Encoder(nn.Module):
        """All stages."""

        def __init__(self) -> None:
            super().__init__()
            self.stages = nn.ModuleList((Windowed.Stage(8), Windowed.Stage(16)))

        def forward(self, x: Tensor) -> Tensor:
            """Run it."""
            for stage in self.stages:
                x, _ = stage(x)
            return x

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 2, 2)
        self.encoder = self.Encoder()
        self.norm = nn.LayerNorm(32)
        self.pool = nn.AdaptiveAvgPool1d(1)
        self.flat = nn.Flatten()
        self.head = nn.Linear(32, 5)

    def forward(self, images: Tensor) -> Tensor:
        """Run it."""
        x = self.norm(self.encoder(self.patches(images).flatten(2).mT))
        return self.head(input=self.flat(self.pool(x.mT)))


class UNet(nn.Module):
    """Down and up again with a shortcut, so that no place inside has all of it."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Conv2d(3, 4, 3, padding=1)
        self.down = nn.Conv2d(4, 8, 3, 2, 1)
        self.up = nn.ConvTranspose2d(8, 4, 2, 2)
        self.out = nn.Conv2d(8, 2, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Run it."""
        first = self.enter(images)
        return self.out(torch.cat([first, self.up(self.down(first))], dim=1))


class NoModules(nn.Module):
    """All in one: nothing in it could be tapped."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, 5))

    def forward(self, images: Tensor) -> Tensor:
        """Run it."""
        return images.mean(dim=(2, 3)) @ self.weight


def test_stages_end_before_the_resolution_changes() -> None:
    """The stem after its activation, each stage, and what the output layer reads; nothing beside the main way."""
    found = suggest(Residual(), IMAGES)
    assert found.names == ("stem", "stages.0", "stages.1", "head.0")
    assert [place.shape for place in found.places] == [(8, 16, 16), (16, 8, 8), (32, 4, 4), (32,)]
    passed = {place.name for place in found.trace.places if place.passed}
    assert passed == {
        "stem", "stem.0", "stem.1", "stem.2", "stages.0", "stages.0.0", "stages.0.1", "stages.1", "stages.1.0",
        "stages.1.1", "head", "head.0", "head.1",
    }  # fmt: skip


def test_the_network_stays_as_it_is() -> None:
    """Its modes, gradients, statistics and hooks are as before, and the random numbers too."""
    model = Residual()
    model.stem.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    with torch.no_grad():
        suggest(model, IMAGES)
    assert model.training
    assert not model.stem.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())
    assert torch.equal(torch.get_rng_state(), state)


def test_share_of_flops() -> None:
    """Worked by hand: 2 × multiply-adds of each convolution up to there, of all."""
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 8, 2, 2), nn.Flatten(), nn.Linear(8 * 4, 2))
    places = trace(model, torch.rand(1, 3, 4, 4)).places
    first, second, last = 16 * 4 * 3, 4 * 8 * 4 * 4, 32 * 2
    whole = first + second + last
    expected = [first, first, first + second, first + second, whole]
    assert [place.share for place in places] == pytest.approx([one / whole for one in expected])


def test_equal_blocks_at_even_depths() -> None:
    """Four of a transformer's blocks, its class token to be dropped, and the norm, of which the head reads a token."""
    found = suggest(Transformer(), IMAGES)
    assert found.names == (*(f"blocks.layers.{number}" for number in (1, 3, 5, 7)), "norm")
    assert found.drop_tokens == 1
    assert len(found.blocks) == 8
    assert [place.shape for place in found.places] == [(17, 16)] * 5


def test_stages_that_give_tuples() -> None:
    """The last block of each stage stands for it: a tuple of one tensor and nothing else is as good as the tensor."""
    found = suggest(Windowed(), IMAGES)
    assert found.names == ("encoder.stages.0.blocks.1", "encoder.stages.1.blocks.1", "norm", "flat")
    assert [place.shape for place in found.places] == [(256, 8), (64, 16), (16, 32), (32,)]
    assert next(place for place in found.trace.places if place.name == "encoder.stages.0").obstacle


def test_a_class_token_alone_is_no_place() -> None:
    """What would be empty without the tokens that are dropped is not suggested."""
    found = suggest(Transformer(token_alone=True), IMAGES)
    assert (found.drop_tokens, found.features) == (1, None)
    assert next(place for place in found.trace.places if place.name == "norm").shape == (1, 16)


def test_a_backbone_ends_with_its_output() -> None:
    """Without an output layer the last hidden features are the output itself."""
    model = Residual()
    model.head = nn.Identity()
    assert suggest(model, IMAGES).names == ("stem", "stages.0", "stages.1", "head")


def test_several_ways_to_the_output() -> None:
    """Where no place has everything, the stages are told by resolution alone."""
    found = suggest(UNet(), IMAGES)
    assert found.names == ("enter", "down", "up")
    assert [place.name for place in found.trace.places if place.passed] == ["enter", "out"]


def test_plain_layers() -> None:
    """Without any map the hidden layers are taken, after their activation."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(3072, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 5))
    assert suggest(model, IMAGES).names == ("2", "4")


def test_changed_in_place() -> None:
    """The last hidden features are those after an activation that works in place, not the same memory before it."""
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, 2), nn.Flatten(), nn.Linear(900, 8), nn.ReLU(inplace=True), nn.Linear(8, 5)
    )
    assert suggest(model, IMAGES).features.name == "3"


def test_what_cannot_be_tapped() -> None:
    """A module that runs twice, one without a tensor, and one whose first dimension is not the batch say so."""

    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.twice, self.pair, self.turned = nn.ReLU(), nn.Identity(), nn.Identity()
            self.head = nn.Linear(3, 5)

        def forward(self, images: Tensor) -> Tensor:
            """Run it."""
            x = self.twice(self.twice(images).mean(dim=(2, 3)))
            return self.head(self.pair((x, x))[0] + self.turned(x.mT).mT)

    obstacles = {place.name: place.obstacle for place in trace(Odd(), IMAGES).places}
    assert obstacles == {
        "twice": "runs 2 times", "pair": "gives a tuple of 2", "turned": "gives (3, 2) for 2 images", "head": "",
    }  # fmt: skip


def test_errors() -> None:
    """No place to tap, images that do not fit, and taps that do not run are one line each."""
    with pytest.raises(OptionError, match="NoModules has no place to tap"):
        suggest(NoModules(), IMAGES)
    with pytest.raises(OptionError, match="cannot take images of 1 × 32 × 32"):
        suggest(Residual(), IMAGES[:, :1])
    with pytest.raises(OptionError, match="'stages' of Residual does not run"):
        suggest_pair(Residual(), Transformer(), IMAGES, student_taps=["stages"])
    names = [f"stages.{stage}.{block}" for stage in (0, 1) for block in (0, 1)]
    plain = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Conv2d(2, 2, 3), nn.Conv2d(2, 2, 1))
    with pytest.raises(OptionError, match="4 taps are to be paired, but the student can be tapped at 2 places only"):
        suggest_pair(plain, Residual(), IMAGES, teacher_taps=names)


def test_pairs_by_depth() -> None:
    """The stages lead; each gets the block whose share of the FLOPs is nearest, strictly rising; features pair up."""
    student, teacher = Residual(), Transformer()
    ours, theirs = suggest_pair(student, teacher, IMAGES)
    assert ours.names == ("stem", "stages.0", "stages.1", "head.0")
    blocks = suggest(teacher, IMAGES).blocks
    shares = [place.share for place in ours.stages]
    everything = [
        [one, two, three] for one in blocks for two in blocks for three in blocks if one.share < two.share < three.share
    ]
    best = min(everything, key=lambda some: sum(abs(a.share - b) for a, b in zip(some, shares, strict=True)))
    assert theirs.names == (*(place.name for place in best), "norm")
    back = suggest_pair(teacher, student, IMAGES)
    assert (back[0].names, back[1].names) == (theirs.names, ours.names)


def test_pairs_by_stage_and_with_names() -> None:
    """Equally many stages pair by number; what is named stays, in its order, and the other network's are looked for."""
    one, other = suggest_pair(create("resnet8", num_classes=3), create("wrn-16-1", num_classes=3), IMAGES)
    assert one.names == ("stage1", "stage2", "stage3", "classifier.flatten")
    assert other.names == ("stage1", "stage2", "relu", "classifier.flatten")
    one, other = suggest_pair(Residual(), Transformer(), IMAGES, teacher_taps=["blocks.layers.0", "blocks.layers.7"])
    assert other.names == ("blocks.layers.0", "blocks.layers.7")
    assert one.names == ("stem", "stages.1")
    one, other = suggest_pair(Residual(), Transformer(), IMAGES, student_taps=["stages.0", "stages.1", "head.0"])
    assert one.names == ("stages.0", "stages.1", "head.0")
    assert other.names[-1] == "norm"


@pytest.mark.parametrize(
    "name", ["vgg8", "vgg-bn-teacher", "mobilenet-student", "resnext-student", "resnet8", "wrn-16-1"]
)
def test_last_features_of_our_own_networks(name: str) -> None:
    """They end where the default taps do."""
    assert suggest(create(name, num_classes=3, width=0.25), IMAGES).names[-1] == default_taps(name)[-1]


def test_compiled_before_it_was_tapped() -> None:
    """Taps that a compiled network does not notice say so; a suggestion runs it uncompiled."""
    model = torch.compile(Residual(), backend="eager")
    model(IMAGES)
    with Taps(model, ["_orig_mod.stem"]) as taps:
        model(IMAGES)
        with pytest.raises(ShapeError, match="is compiled and had run before it was tapped"):
            taps.collect()
    assert suggest(model, IMAGES).names[:2] == ("_orig_mod.stem", "_orig_mod.stages.0")


@pytest.mark.parametrize(
    ("library", "name", "options", "size", "taps", "widths"),
    [
        ("timm", "resnet18", {}, 32, ("act1", "layer1", "layer2", "layer3", "global_pool"), (64, 64, 128, 256, 512)),
        ("timm", "convnext_atto", {}, 64, ("stages.0", "stages.1", "stages.2", "stages.3", "head.flatten"),
         (40, 80, 160, 320, 320)),
        ("timm", "swin_tiny_patch4_window7_224",
         {"img_size": 56, "embed_dim": 16, "depths": (1, 1, 1, 1), "num_heads": (1, 2, 2, 2)}, 56,
         ("layers.0", "layers.1", "layers.2", "layers.3", "head.global_pool"), (16, 32, 64, 128, 128)),
        ("timm", "vit_tiny_patch16_224", {"img_size": 64}, 64,
         ("blocks.2", "blocks.5", "blocks.8", "blocks.11", "fc_norm"), (192,) * 5),
        ("timm", "mobilenetv3_small_050", {}, 64,
         ("bn1", "blocks.0", "blocks.1", "blocks.3", "blocks.5", "flatten"), None),
        ("torchvision", "resnet18", {}, 64, ("relu", "layer1", "layer2", "layer3", "layer4", "avgpool"), None),
        ("torchvision", "mobilenet_v2", {"width_mult": 0.25}, 64,
         ("features.1", "features.3", "features.6", "features.13", "features.18", "classifier.0"), None),
    ],
)  # fmt: skip
def test_networks_of_other_libraries(library, name, options, size, taps, widths) -> None:  # type: ignore[no-untyped-def]
    """Theirs are the stages that people name by hand; of Swin, whose maps are (B, H, W, C), the widths are right."""
    installed(library)
    model = create(f"{library}:{name}", num_classes=3, arguments=options)
    found = suggest(model, torch.randn(1, 3, size, size))
    assert found.names == taps
    if widths is not None:
        assert tuple(p.shape[0] if len(p.shape) == 3 else p.shape[-1] for p in found.places) == widths


@pytest.mark.parametrize(
    ("network", "layer"),
    [
        (create("vgg-student", num_classes=7, width=0.25), "classifier.output"),
        (Residual(), "head.1"),
        (Transformer(), "head"),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 7, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()), "2"),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten()), None),
    ],
)
def test_the_output_layer(network: nn.Module, layer: str | None) -> None:
    """It is the last linear layer, a 1×1 convolution before pooling too; a backbone has none."""
    found = trace(network, IMAGES).output
    assert (None if found is None else found.name) == layer


class Mixer(nn.Module):
    """Blocks on 16 tokens, which are added outside of them, so that nothing passes through their outputs."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 8, 8)
        self.blocks = nn.ModuleList(nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width)) for _ in range(4))
        self.head = nn.Linear(width, 5)

    def forward(self, images: Tensor) -> Tensor:
        """Run it."""
        x = self.patches(images).flatten(2).mT
        for block in self.blocks:
            x = x + block(x)
        return self.head(x.mean(1))


def test_maps_that_do_not_show_their_channels_are_warned_of() -> None:
    """As many tokens as channels: what is passed over in the suggestion is said."""
    assert "blocks.3" in suggest(Mixer(12), IMAGES).names
    words = r"^'blocks.0' of Mixer \(and 3 more\) gives \(2, 16, 16\), which does not show .* name the taps, and their"
    with pytest.warns(SvdistillWarning, match=words):
        found = suggest(Mixer(16), IMAGES)
    assert not [name for name in found.names if name.startswith("blocks")]

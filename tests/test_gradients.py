"""Tests of the rule that makes one gradient of two; expected values are worked by hand in float64."""

import math

import pytest
import torch

from svdistill import gradients
from svdistill.errors import OptionError, ShapeError
from svdistill.gradients import CLIPS, TransferHealth, combine

EPS = torch.finfo(torch.float64).eps
SIGMOID_2 = 1 / (1 + math.exp(-2))


def tensor(*values, dtype=torch.float64):
    """Return a vector."""
    return torch.tensor(values, dtype=dtype)


def close(actual, expected, eps=4 * EPS):
    """Compare to a few eps."""
    torch.testing.assert_close(actual, expected, rtol=eps, atol=0)


def test_per_variable_clips_each_variable_by_its_own_norms():
    """‖g_m‖ = 5 everywhere; g_t of norm 10 is scaled to s(2) · 5, g_t of norm 1 passes whole."""
    main = (tensor(3.0, 4.0), tensor(0.0, 5.0))
    transfer = (tensor(10.0, 0.0), tensor(0.6, 0.8))
    first, second = combine(main, transfer, epoch=2)
    close(first, tensor(3 + 5 * SIGMOID_2, 4.0))
    close(second, tensor(0.6, 5.8))


@pytest.mark.parametrize(("epoch", "bound"), [(0, 0.5), (1, 0.7310585786300049), (1000, 1.0)])
def test_the_bound_grows_with_the_epoch_from_one_half(epoch, bound):
    """s(0) = 1/2, s(1) = 0.7311, s(∞) = 1; epochs count from 0."""
    (gradient,) = combine([tensor(1.0)], [tensor(100.0)], epoch=epoch)
    close(gradient, tensor(1 + bound))


def test_global_takes_one_norm_over_all_variables():
    """‖G_m‖ = √(9 + 16 + 144) = 13, also over what transfer does not reach; ‖G_t‖ = 26: factor s(0) / 2 = 1/4."""
    main = (tensor(3.0), tensor(4.0), tensor(12.0))
    transfer = (tensor(10.0), tensor(24.0), None)
    gradients = combine(main, transfer, epoch=0, clip="global")
    for actual, expected in zip(gradients, (5.5, 10.0, 12.0), strict=True):
        close(actual, tensor(expected))


def test_global_lets_a_small_transfer_gradient_pass_whole():
    """‖G_t‖ = 5 is below s(0) · 13."""
    gradients = combine((tensor(5.0), tensor(12.0)), (tensor(3.0), tensor(4.0)), epoch=0, clip="global")
    close(torch.cat(gradients), tensor(8.0, 16.0))


def test_poster_follows_the_printed_formula():
    """τ = 5/10: g_t / (1 + exp(−0.5 + 2)), which no condition switches off."""
    (gradient,) = combine([tensor(3.0, 4.0)], [tensor(0.0, 10.0)], epoch=2, clip="poster")
    close(gradient, tensor(3.0, 4 + 10 / (1 + math.exp(-0.5 + 2))))


@pytest.mark.parametrize(("main", "transfer", "epoch"), [(1e200, 1e-100, 0), (1e-200, 1.0, 5000), (1.0, 1e-320, 3)])
def test_poster_does_not_overflow(main, transfer, epoch):
    """exp(τ) and exp(p) beyond the range of float64 end in a factor of 1 or 0."""
    (gradient,) = combine([tensor(main)], [tensor(transfer)], epoch=epoch, clip="poster")
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("epoch", [0, 50])
def test_own_norm_holds_the_whole_transfer_gradient_at_the_bound(epoch):
    """‖G_t‖ = 26 over both variables becomes 2, whatever g_m and the epoch are; its direction stays."""
    main = (tensor(0.0), None, tensor(12.0))
    transfer = (tensor(10.0), tensor(24.0), None)
    first, second, third = combine(main, transfer, epoch=epoch, clip="own_norm", bound=2.0)
    close(torch.cat([first, second]), tensor(10 / 13, 24 / 13))
    assert third is main[2]


def test_own_norm_lets_a_small_transfer_gradient_pass_whole():
    """‖G_t‖ = 5 is within the bound of 5: to the bit the plain sum."""
    given = (tensor(1.0), tensor(-2.0)), (tensor(3.0), tensor(4.0))
    torch.testing.assert_close(
        combine(*given, epoch=0, clip="own_norm", bound=5.0), combine(*given, epoch=0, clip="none"), rtol=0, atol=0
    )


@pytest.mark.parametrize("weight", [0.25, 1.0, 4.0])
def test_own_norm_does_not_depend_on_the_weight_where_it_holds_back(weight):
    """A transfer loss of another weight gives the same step as long as ‖g_t‖ is above the bound."""
    (gradient,) = combine([tensor(0.0, 1.0)], [weight * tensor(12.0, 16.0)], epoch=0, clip="own_norm")
    close(gradient, tensor(0.6, 1.8))


@pytest.mark.parametrize("bound", [0.0, -1.0, math.inf, math.nan, "3", None, True])
def test_own_norm_refuses_a_bound_out_of_range(bound):
    """The message says what is expected."""
    with pytest.raises(OptionError, match=r"the bound on the transfer gradient is .*, expected a finite number"):
        combine([tensor(1.0)], [tensor(1.0)], epoch=0, clip="own_norm", bound=bound)


def test_none_is_the_plain_sum():
    """Nothing is clipped, whatever the norms."""
    (gradient,) = combine([tensor(1.0, -2.0)], [tensor(1e6, 5.0)], epoch=0, clip="none")
    close(gradient, tensor(1000001.0, 3.0))


@pytest.mark.parametrize("clip", CLIPS)
def test_a_variable_without_transfer_gradient_keeps_the_main_one(clip):
    """The classifier gets g_m alone, the very same tensor; a variable that nothing reaches stays without."""
    classifier = tensor(7.0)
    gradients = combine((tensor(1.0), classifier, None), (tensor(1.0), None, None), epoch=1, clip=clip)
    assert gradients[1] is classifier
    assert gradients[2] is None


@pytest.mark.parametrize(
    ("clip", "expected"), [("per_variable", 0.0), ("global", 0.5), ("poster", 2.0), ("own_norm", 1.0), ("none", 4.0)]
)
def test_a_variable_without_main_gradient_has_norm_zero(clip, expected):
    """‖g_m‖ = 0 here: nothing passes per variable; globally s(0) · 1/4; the poster has τ = 0; then 1 of 4, and all."""
    main, transfer = (None, tensor(0.5)), (tensor(4.0), tensor(0.0))
    if clip == "global":
        main = (None, tensor(1.0))
    first, second = combine(main, transfer, epoch=0, clip=clip)
    close(first, tensor(expected))
    close(second, main[1])


def test_without_any_transfer_gradient_nothing_changes():
    """Main gradients come back as they are and the health sees no step."""
    health = TransferHealth()
    main = (tensor(1.0), None)
    assert combine(main, (None, None), epoch=0, health=health) == main
    assert health.summary() == {}


@pytest.mark.parametrize("clip", CLIPS)
def test_zero_norms_give_no_nan(clip):
    """g_t = 0, g_m = 0 and both."""
    main = (tensor(1.0, 2.0), tensor(0.0, 0.0), tensor(0.0, 0.0))
    transfer = (tensor(0.0, 0.0), tensor(3.0, 4.0), tensor(0.0, 0.0))
    for alone, pair in enumerate(zip(main, transfer, strict=True)):
        (gradient,) = combine(pair[:1], pair[1:], epoch=0, clip=clip)
        assert torch.isfinite(gradient).all(), alone
        if alone != 1:
            close(gradient, pair[0])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("clip", CLIPS)
def test_a_transfer_gradient_that_is_not_finite_is_dropped_and_counted(clip, bad):
    """Its variable gets g_m alone and it counts in no norm, so the others are as if it were not there."""
    health = TransferHealth()
    main = (tensor(3.0, 4.0), tensor(12.0, 0.0))
    first, second = combine(main, (tensor(bad, 1.0), tensor(0.0, 26.0)), epoch=0, clip=clip, health=health)
    without = combine(main, (None, tensor(0.0, 26.0)), epoch=0, clip=clip)
    assert torch.equal(first, main[0])
    assert torch.equal(second, without[1])
    assert health.summary()["dropped"] == 1


@pytest.mark.parametrize("clip", CLIPS)
def test_both_ways_of_adding_agree(monkeypatch, clip):
    """That of a CPU, which sees the factors, and that of a GPU, which does not, also far from 1 and where one drops."""
    main = [torch.full((3,), 1e-30), tensor(3.0, 4.0), torch.ones(2, 2), tensor(7.0)]
    transfer = [torch.full((3,), 1e25), tensor(1.0, 0.5), torch.full((2, 2), math.nan), torch.zeros(1)]
    at_hand = combine(main, transfer, epoch=1, clip=clip)
    monkeypatch.setattr(gradients, "_add_on_cpu", gradients._add_unseen)
    unseen = combine(main, transfer, epoch=1, clip=clip)
    for first, second in zip(at_hand, unseen, strict=True):
        torch.testing.assert_close(first, second, rtol=4 * torch.finfo(torch.float32).eps, atol=0)


def test_a_main_gradient_that_is_not_finite_is_not_hidden():
    """Only transfer gradients are dropped."""
    (gradient,) = combine([tensor(math.nan, 1.0)], [tensor(1.0, 1.0)], epoch=0)
    assert torch.isnan(gradient).any()


@pytest.mark.parametrize("shape", [(), (1,), (3, 2, 2)])
@pytest.mark.parametrize(
    ("main", "transfer"), [(1e25, 1e25), (1e25, 1e-30), (1e-30, 1e25), (1e-30, 1e-30), (3e38, 3e38)]
)
@pytest.mark.parametrize("clip", ["per_variable", "global"])
def test_float32_norms_neither_overflow_nor_underflow(clip, main, transfer, shape):
    """The squares of 1e25 and 1e-30 are outside float32, and so is the factor 1e-55 between them."""
    main, transfer = torch.full(shape, main), torch.full(shape, transfer)
    (gradient,) = combine([main], [-transfer], epoch=1, clip=clip)
    factor = min(1.0, main.double().norm().item() / transfer.double().norm().item() / (1 + math.exp(-1)))
    assert gradient.dtype == torch.float32
    assert gradient.shape == shape
    expected = (main.double() - transfer.double() * factor).float()
    torch.testing.assert_close(gradient, expected, rtol=32 * torch.finfo(torch.float32).eps, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_gradients_keep_their_dtype(dtype):
    """The norms are float64, what comes out is what the variable is."""
    for clip in CLIPS:
        for gradient in combine(
            [tensor(1.0, dtype=dtype), torch.tensor(1.0, dtype=dtype)],
            [tensor(8.0, dtype=dtype), torch.tensor(8.0, dtype=dtype)],
            epoch=0,
            clip=clip,
        ):
            assert gradient.dtype == dtype


def test_the_gradients_that_came_are_left_as_they_are():
    """New tensors come back."""
    main, transfer = tensor(3.0, 4.0), tensor(30.0, 40.0)
    combine([main], [transfer], epoch=0)
    assert torch.equal(main, tensor(3.0, 4.0))
    assert torch.equal(transfer, tensor(30.0, 40.0))


def test_non_contiguous_and_empty_gradients():
    """A transposed gradient gives what its copy gives; a variable without elements does no harm."""
    # Positive, so that no sum cancels and a few eps of each element are asked for rightly.
    generator = torch.Generator().manual_seed(0)
    main, transfer = (torch.rand(shape, dtype=torch.float64, generator=generator) + 0.1 for shape in ((4, 3), (3, 4)))
    main, transfer = main.mT, transfer * 9
    empty = torch.zeros(0, dtype=torch.float64)
    strided, none = combine([main, empty], [transfer, empty], epoch=0)
    (copied,) = combine([main.contiguous()], [transfer], epoch=0)
    close(strided, copied)
    assert none.shape == (0,)


def test_errors_name_what_came():
    """Unknown rule, sequences that do not fit, a negative epoch."""
    one = [tensor(1.0)]
    with pytest.raises(OptionError, match=r"'per_varable'; did you mean 'per_variable'\?"):
        combine(one, one, epoch=0, clip="per_varable")
    with pytest.raises(OptionError, match="unknown clipping rule None; did you mean 'none'"):
        combine(one, one, epoch=0, clip=None)
    with pytest.raises(ShapeError, match="1 main and 2 transfer"):
        combine(one, one * 2, epoch=0)
    with pytest.raises(ShapeError, match=r"variable 0 have shapes \(1,\) and \(2,\)"):
        combine(one, [tensor(1.0, 2.0)], epoch=0)
    for epoch in (-1, math.nan, "3", None):
        with pytest.raises(OptionError, match=f"epoch is {epoch!r}; it is a number and counts from 0"):
            combine(one, one, epoch=epoch)


def test_health_has_ratio_fraction_and_count():
    """Four steps of ratio 2, 1/2, 4 and 0; 1 of 2, none, 2 of 2 and none of the variables are clipped."""
    health = TransferHealth()
    combine([tensor(3.0), tensor(4.0)], [tensor(10.0), tensor(0.0)], epoch=0, health=health)
    combine([tensor(2.0)], [tensor(1.0)], epoch=0, health=health)
    combine([tensor(3.0), tensor(4.0)], [tensor(12.0), tensor(16.0)], epoch=0, health=health)
    combine([tensor(5.0)], [tensor(math.nan)], epoch=0, health=health)
    assert len(health) == 4
    summary = health.summary()
    assert summary["ratio"] == pytest.approx((0.5 + 2) / 2)
    assert summary["clipped"] == pytest.approx((0.5 + 0 + 1 + 0) / 4)
    assert summary["dropped"] == 1
    # 0.15 and 0.125 of the norms pass in the first step and the third, all in the second; in the last there is none.
    assert summary["passed"] == pytest.approx(0.15)


def test_health_ratio_is_over_the_variables_that_transfer_reaches():
    """The classifier's g_m and a dropped variable's g_m are in no ratio; a lone g_t has an infinite one."""
    health = TransferHealth()
    combine([tensor(2.0), tensor(1e6), tensor(1e6)], [tensor(6.0), None, tensor(math.inf)], epoch=0, health=health)
    assert health.summary()["ratio"] == pytest.approx(3)
    health.reset()
    combine([None], [tensor(6.0)], epoch=0, health=health)
    assert health.summary()["ratio"] == math.inf


def test_health_goes_through_a_checkpoint():
    """What was saved and loaded continues as if nothing had happened."""
    whole, parts = TransferHealth(), TransferHealth()
    for step in range(4):
        pair = [tensor(1.0)], [tensor(step + 0.25)]
        combine(*pair, epoch=0, health=whole)
        combine(*pair, epoch=0, health=parts)
        fresh = TransferHealth()
        fresh.load_state_dict(parts.state_dict())
        parts = fresh
    assert parts.summary() == whole.summary()
    earlier = TransferHealth()
    earlier.load_state_dict({"rows": parts.state_dict()["rows"][:, :3]})  # before it was noted how much passed
    assert earlier.summary() == {key: value for key, value in parts.summary().items() if key != "passed"}
    empty = TransferHealth()
    empty.load_state_dict(TransferHealth().state_dict())
    assert len(empty) == 0


def test_health_is_forgotten_before_there_is_any() -> None:
    """A reset before the first step leaves nothing, as one after it does."""
    health = TransferHealth()
    health.reset()
    assert (len(health), health.summary()) == (0, {})


@pytest.mark.parametrize("clip", CLIPS)
def test_an_epoch_on_the_device_is_as_good_as_a_number(clip):
    """A captured step reads the epoch from a tensor."""
    pair = [tensor(3.0, 4.0), tensor(0.0, 5.0)], [tensor(10.0, 0.0), tensor(0.6, 0.8)]
    for number in (0.0, 2.0):
        there = combine(*pair, epoch=tensor(number)[0], clip=clip)
        for first, second in zip(there, combine(*pair, epoch=number, clip=clip), strict=True):
            close(first, second)


def test_health_counts_as_clipped_what_was_there_to_be_scaled():
    """A g_t of zero is not scaled down, a lone one counts whole, and a step that is not applied has no ratio."""
    health = TransferHealth()
    combine([tensor(1.0)] * 3, [tensor(10.0), tensor(0.5), tensor(0.0)], epoch=0, clip="global", health=health)
    assert health.summary()["clipped"] == pytest.approx(2 / 3)
    health.reset()
    combine([tensor(1.0)], [tensor(10.0)], epoch=0, health=health)
    assert health.summary()["clipped"] == 1
    health.reset()
    combine([tensor(math.inf)], [tensor(10.0)], epoch=0, health=health)
    assert (len(health), health.summary()) == (1, {})


def add_steps(health, first, number):
    """Let the transfer gradient be ``first`` times the main one, then one time more in each further step."""
    for ratio in range(first, first + number):
        combine([tensor(1.0)], [tensor(float(ratio))], epoch=0, health=health)


def ratios(health):
    """Return the ratio of each step so far."""
    return health.state_dict()["rows"][:, 0].tolist()


def test_health_forgets_the_steps_of_a_rehearsal():
    """What was there before stays, what comes after follows it, also where nothing was there."""
    health = TransferHealth()
    assert len(health) == 0
    put_back = health.untouched()
    add_steps(health, 50, 2)
    put_back()
    assert len(health) == 0
    add_steps(health, 1, 2)
    put_back = health.untouched()
    add_steps(health, 50, 100)
    put_back()
    put_back()  # as often as one likes
    assert len(health) == 2
    add_steps(health, 3, 2)
    assert ratios(health) == [1, 2, 3, 4]
    health.reset()
    assert len(health) == 0
    add_steps(health, 7, 1)
    assert ratios(health) == [7]


def test_health_grows_with_the_steps_and_keeps_its_memory():
    """Each step is there, however many come; an epoch of as many again needs no more room."""
    health = TransferHealth()
    add_steps(health, 1, 300)
    assert ratios(health) == list(range(1, 301))
    room = len(health._rows)
    assert room <= 600
    for _ in range(5):
        health.reset()
        add_steps(health, 1, 300)
    assert len(health._rows) == room
    resumed = TransferHealth()
    resumed.load_state_dict(health.state_dict())
    add_steps(resumed, 301, 3)
    assert ratios(resumed) == list(range(1, 304))
    put_back = resumed.untouched()
    put_back()
    room = len(resumed._rows)
    for _ in range(40):  # rehearsals again and again are not steps
        add_steps(resumed, 1, 20)
        put_back()
    assert len(resumed._rows) == room


def test_health_has_room_for_replays():
    """They write further rows, and the host, which would have to make room, does not see them."""
    health = TransferHealth()
    health.reserve(200)
    health.reserve(20)
    add_steps(health, 1, 1)
    for step in range(2, 201):
        health._calls = 1
        add_steps(health, step, 1)
    assert ratios(health) == list(range(1, 201))
    assert len(health._rows) == 200

"""Tests of the tables that say what each method gains, data set by data set."""

from tests.benchmarks.test_regimes import runs

from benchmarks import gains


def test_gains_with_half_their_intervals() -> None:
    """Gains of 10, 12 and 14 points: 12 ± 4.303 · 2 / √3 = 5.0; what is surely below, by 2, 1 and 2, is not bold."""
    figures = {
        "regimes-cifar100": {
            "regimes": {
                "cifar100-vgg-10": {
                    "teacher": runs(0.9),
                    "alone": runs(0.20, 0.22, 0.24, labels=5000),
                    "svd-recommended": runs(0.30, 0.34, 0.38),
                    "attention": runs(0.10, 0.62, 0.16),
                    "dkd": runs(0.28, 0.33, 0.36),
                    "fsp": runs(0.19),
                },
                "cifar100-vgg-10-unlabelled": {"relational": runs(0.30, 0.30, 0.30)},
                "cifar100-resnet-10": {"alone": runs(0.1)},
            }
        }
    }
    assert gains.table(figures, beside=False).splitlines() == [
        "| | CIFAR-100, VGG: 5,000 labels |",
        "| --- | --- |",
        "| student alone, % | 22.0 |",
        "| DKD | +10.3 ± 5.2 |",
        "| AT | +7.3 ± 70.3 |",
        "| FSP | −1.0 |",
        "| KD-SVD as we recommend it | **+12.0 ± 5.0** |",
    ]
    assert gains.table(figures, beside=True).splitlines()[2:] == [
        "| student alone, % | 22.0 |",
        "| RKD | **+8.0 ± 5.0** |",
    ]


def test_gains_from_another_teacher_are_marked() -> None:
    """Over their own student alone, and never bold: what stands beside them in the column had another teacher."""
    share = "cifar100-vgg-10"
    figures = {
        "regimes-cifar100": {"regimes": {share: {"alone": runs(0.2, 0.2), "dkd": runs(0.3, 0.3)}}},
        "regimes-cifar100-avx2": {
            "regimes": {share: {"alone": runs(0.4, 0.4), "dkd": runs(0.9, 0.9), "fsp": runs(0.6, 0.6)}}
        },
    }
    assert gains.table(figures, beside=False).splitlines()[2:] == [
        "| student alone, % | 20.0 |",
        "| DKD | **+10.0 ± 0.0** |",
        "| FSP | +20.0 ± 0.0 ° |",
    ]

"""Where the block iteration overtakes eigh: makes the table `SUBSPACE_FROM` of `svdistill.linalg.solvers` anew."""

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.measure import machine, ratio, side_by_side, write
from svdistill.linalg import decompose

BATCH = 128
SIZES = (8, 12, 16, 24, 32, 48, 64)
RANKS = (1, 2, 3, 4, 5, 8)


def maps(size: int) -> torch.Tensor:
    """Return post-ReLU maps (B, size, 2 size) whose spectrum falls off as that of features does."""
    generator = torch.Generator().manual_seed(size)
    mixing = torch.randn(size, size, generator=generator) / torch.arange(1, size + 1)
    return torch.relu(mixing @ torch.randn(BATCH, size, 2 * size, generator=generator) + 0.3)


def main() -> None:
    """Time both solvers on a grid of shapes, print ratios and the lines to paste, write JSON."""
    table = Table(title=f"eigh / subspace, batch {BATCH}, {machine()['threads']} threads: above 1 subspace wins")
    for column in ("rank", *(f"m = {size}" for size in SIZES)):
        table.add_column(column, justify="right")
    wins: dict[int, dict[int, float]] = {}
    for rank in RANKS:
        wins[rank] = {}
        for size in SIZES:
            x = maps(size)
            times = side_by_side(
                {s: lambda s=s, x=x, rank=rank: decompose(x, rank, solver=s) for s in ("eigh", "subspace")},  # type: ignore[misc]
                rounds=15,
                title=f"rank {rank}, m = {size}",
            )
            wins[rank][size] = ratio(times["eigh"], times["subspace"])
        table.add_row(str(rank), *(f"{wins[rank][size]:.2f}" for size in SIZES))
    Console().print(table)
    least = {
        rank: min((s for s in SIZES if all(row[t] > 1.05 for t in SIZES if t >= s)), default=0)
        for rank, row in wins.items()
    }
    print(f"SUBSPACE_FROM = { ({rank: size for rank, size in least.items() if size}) }")
    print(f"written: {write('solvers', {'batch': BATCH, 'eigh_over_subspace': wins})}")


if __name__ == "__main__":
    main()

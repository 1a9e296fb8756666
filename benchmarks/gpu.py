"""The training step on a GPU; see `benchmarks.step`."""

from benchmarks.step import main_gpu

if __name__ == "__main__":
    main_gpu()

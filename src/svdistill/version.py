"""The version of this package, where those who only want to know it need nothing else."""

__version__ = "0.1.0"

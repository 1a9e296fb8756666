"""``python -m svdistill`` does what ``svdistill`` does."""

from svdistill.cli import main

if __name__ == "__main__":
    main()

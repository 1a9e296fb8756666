"""How the site is made of `docs/`: `make docs`."""

"""`python -m nanochat_pl COMMAND`."""

from nanochat_pl.cli import main

main()

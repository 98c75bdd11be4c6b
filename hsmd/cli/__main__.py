"""`python -m hsmd.cli` is `hsmd`."""

from hsmd.cli import main

main()

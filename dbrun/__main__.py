"""`python -m dbrun` is `dbrun`."""

from dbrun.cli import main

main()

"""Entry point of `python -m dbrun`, the same as the command `dbrun`."""

from dbrun.cli import main

main()

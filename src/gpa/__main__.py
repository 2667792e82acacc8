"""`python -m gpa` is the command `gpa`, also for torchrun."""

from gpa.cli import main

main()

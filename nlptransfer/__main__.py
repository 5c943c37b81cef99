"""python -m nlptransfer, so that ``accelerate launch -m nlptransfer`` reaches the command line."""

from nlptransfer.cli import main

main()

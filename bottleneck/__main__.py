"""``python -m bottleneck`` is the command line."""

from bottleneck.cli import main

main()

"""``python -m cloudai.cli``: the same as the console script."""

from cloudai.cli import main

main()

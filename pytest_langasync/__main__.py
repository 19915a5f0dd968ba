"""``python -m pytest_langasync``: look after the cache and the jobs in it."""

import sys

from pytest_langasync.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

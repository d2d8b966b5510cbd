"""The guide's `python test_api.py [URL]`: tests/test_api.py does the work."""

import sys

from tests.test_api import DEFAULT_URL, main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else DEFAULT_URL))

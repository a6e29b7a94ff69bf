"""``python -m secondlook``, and the command ``secondlook``."""

import sys

try:
    from secondlook.cli import main as main
except KeyboardInterrupt:  # it may come before there is anything to stop
    sys.exit("stopped")

if __name__ == "__main__":
    main()

"""``python -m tvm_costmodel``."""

import sys

from tvm_costmodel.cli import entry

if __name__ == "__main__":
    sys.exit(entry())

"""``python -m tvm_costmodel``."""

import sys

from tvm_costmodel.cli import main

if __name__ == "__main__":
    sys.exit(main())

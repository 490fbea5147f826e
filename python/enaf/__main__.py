# SPDX-License-Identifier: Apache-2.0
"""`python -m enaf` is the `enaf` command."""

import sys

from enaf.cli import main

sys.exit(main())

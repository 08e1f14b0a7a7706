"""``python -m mlcycle_nb`` is ``mlcycle``."""

from mlcycle_nb.cli import main

raise SystemExit(main())

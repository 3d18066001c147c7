"""``python -m reports.markdown``: what transfers and what does not, from the last run's figures.

Written from ``reports/out/latest/results.json``: ``transfer.md`` says in sentences what holds on
all models, what flips, what is small and what is open; ``verdicts.md`` has every estimate.
"""

from __future__ import annotations

import sys

from reports.markdown.transfer import main

sys.exit(main())

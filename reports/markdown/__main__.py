"""``python -m reports.markdown``: what transfers and what does not, from the last run's figures.

Written from ``reports/out/latest/results.json``: ``transfer.md`` is one page, which claims hold on
which model; ``verdicts.md`` has every estimate.
"""

from __future__ import annotations

import sys

from reports.markdown.transfer import main

sys.exit(main())

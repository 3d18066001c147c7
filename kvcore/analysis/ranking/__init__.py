"""Ranking by scores: from tables of numbers to AUC, MRR, Hit and their differences.

A table has one row per candidate passage: ``query_id``, ``passage_id``, ``relevant`` and
``score``, where a higher score ranks higher. The unit that is resampled is the query, and what is
compared between two scores is compared over the same queries. A query with a NaN score is left
out whole, since without a passage its list would be another list.

The order of rows never changes a number: queries and passages are sorted by id.
"""

from kvcore.analysis.ranking.combining import best_of, route, two_stage
from kvcore.analysis.ranking.estimates import (
    benefit_gap,
    contrast,
    difference,
    estimate,
    trend,
)
from kvcore.analysis.ranking.metrics import (
    METRICS,
    Comparison,
    K,
    auc,
    compare,
    per_query,
    roc,
    value,
)
from kvcore.analysis.ranking.overlap import CALIPER, OverlapControl, control_overlap
from kvcore.analysis.ranking.tables import COLUMNS, KEYS, pmi, raw, table

"""Estimates against predictions: what is supported, what is refuted, what it would take to know."""

from kvcore.verdict.judging import (
    MIN_UNITS,
    IntervalReading,
    familywise,
    judge,
    judge_beside,
    p_value,
    read_interval,
    tails,
)
from kvcore.verdict.looks import FUTILE, MOST_LOOKS, Look, repeated_level, repeated_p
from kvcore.verdict.multiple import Q_LEVEL, q_values
from kvcore.verdict.planning import SampleSizePlan, plan
from kvcore.verdict.prediction import (
    SMALLEST_D,
    Prediction,
    Region,
    at_least,
    at_most,
    differs,
    does_not_help,
    helps,
    hurts,
    negligible,
)
from kvcore.verdict.published import (
    Difference,
    Published,
    consistent,
    difference_from_published,
    published_error,
)
from kvcore.verdict.reading import OUTCOMES, Outcome, Verdict, outcome_words, read
from kvcore.verdict.records import Cell, Claim, Judgement, check_slug, slugify

"""Numbers with intervals from stored measurements; everything is paired, and samples may cluster.

``ranking`` (AUC, MRR, Hit), ``latency`` (first tokens, censored) and ``policy`` (when to prime)
are namespaces of their own.
"""

from kvcore.analysis import latency, policy, ranking
from kvcore.analysis.cached import cached_json, estimate_key
from kvcore.analysis.correlations import correlation, oldham
from kvcore.analysis.estimate import Estimate, from_plain, to_plain
from kvcore.analysis.interval import DEFAULT_INTERVAL, IntervalSettings, resampled
from kvcore.analysis.least_squares import slope_weights, slopes
from kvcore.analysis.noise import floor_on_scale, noise_floor
from kvcore.analysis.paired import (
    PairedEffect,
    effect_difference,
    effect_size,
    interval_widths,
    mean_difference,
    paired_effect,
    ratio_of_means,
)
from kvcore.analysis.proportions import clustered_proportion, proportion
from kvcore.analysis.quartiles import quartile_effect, quartile_table
from kvcore.analysis.samples import Clusters, FloatArray

"""Deployment: is it worth priming only what is hard?"""

from claims.cells import claim
from claims.harness.estimands.paired import gate_against_everything
from kvcore.verdict import helps

THRESHOLD = 1.5  # nats per token, as published


@claim("gate-beats-priming-everything", family="deployment", slow=True,
       source="priming project summary, deployment rule", needs=("bare", "static_fact"),
       predicts=helps(delta=0.09))
def test_the_gate_beats_priming_everything(rows, judge):
    """Priming only answers whose odd tokens are hard beats priming all, on the even tokens."""
    judge(gate_against_everything(THRESHOLD, rows("bare"), rows("static_fact")))

"""Deployment: is it worth priming only what is hard?"""

from claims.harness.claims import claims_about
from claims.harness.estimands.paired import gate_against_everything
from kvcore.verdict import helps

THRESHOLD = 1.5  # nats per token, as published


topic = claims_about("deployment", source="priming project summary, deployment rule", slow=True)


@topic.claim("gate-beats-priming-everything", predicts=helps(delta=0.09))
def test_the_gate_beats_priming_everything(judge):
    """Priming only answers whose odd tokens are hard beats priming all, on the even tokens."""
    judge(gate_against_everything("bare", "static_fact", threshold=THRESHOLD))

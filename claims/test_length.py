"""Length: does the benefit survive when unrelated text follows the passage?"""

from claims.cells import MISTRAL, claim
from claims.harness.estimands.paired import paired_benefit, trend_over_length
from kvcore.verdict import Published, does_not_help, helps, hurts

SOURCE = "priming project summary, length"
LENGTHS = (256, 512, 1024, 2048)
SPARSE = "beacons(static_fact,128)"


def at(condition: str, tokens: int) -> str:
    """Name a condition on documents padded to a number of tokens."""
    return f"{condition}@{tokens}"


def needs(*conditions: str, lengths: tuple[int, ...] = LENGTHS) -> tuple[str, ...]:
    """Name every condition at every length."""
    return tuple(at(condition, n) for n in lengths for condition in conditions)


def published(d: float, text: str) -> dict[tuple[str, str], Published]:
    """Return a value published for Mistral-7B on padded MS MARCO, 278 passages."""
    return {MISTRAL: Published(d, 278, "nll_tail", text=text)}


@claim("no-benefit-from-256-tokens", family="length", source=SOURCE, slow=True, min_n=50,
       needs=needs("bare", "static_fact", lengths=(256,)),
       predicts=does_not_help(delta=0.15, effect=0.0),
       published=published(0.114, "d +0.114, p 0.059"))
def test_no_benefit_at_256_tokens(rows, judge):
    """With 256 tokens of document a static prefix makes the answer no easier."""
    judge(paired_benefit(rows(at("bare", 256)), rows(at("static_fact", 256))))


@claim("no-benefit-at-512-tokens", family="length", source=SOURCE, slow=True, min_n=50,
       needs=needs("bare", "static_fact", lengths=(512,)),
       predicts=does_not_help(delta=0.15, effect=0.0), published=published(0.034, "d +0.034"))
def test_no_benefit_at_512_tokens(rows, judge):
    """With 512 tokens of document a static prefix makes the answer no easier."""
    judge(paired_benefit(rows(at("bare", 512)), rows(at("static_fact", 512))))


@claim("no-benefit-at-1024-tokens", family="length", source=SOURCE, slow=True, min_n=50,
       needs=needs("bare", "static_fact", lengths=(1024,)),
       predicts=does_not_help(delta=0.15, effect=0.0), published=published(-0.043, "d -0.043"))
def test_no_benefit_at_1024_tokens(rows, judge):
    """With 1,024 tokens of document a static prefix makes the answer no easier."""
    judge(paired_benefit(rows(at("bare", 1024)), rows(at("static_fact", 1024))))


@claim("no-benefit-at-2048-tokens", family="length", source=SOURCE, slow=True, min_n=50,
       needs=needs("bare", "static_fact", lengths=(2048,)),
       predicts=does_not_help(delta=0.15, effect=0.0), published=published(-0.014, "d -0.014"))
def test_no_benefit_at_2048_tokens(rows, judge):
    """With 2,048 tokens of document a static prefix makes the answer no easier."""
    judge(paired_benefit(rows(at("bare", 2048)), rows(at("static_fact", 2048))))


@claim("benefit-decays-with-length", family="length", source=SOURCE, slow=True, min_n=50,
       needs=needs("bare", "static_fact"), predicts=hurts(delta=0.09, effect=-0.2))
def test_the_benefit_decays_with_length(rows, judge):
    """The longer the document, the less a static prefix helps."""
    judge(trend_over_length({n: (rows(at("bare", n)), rows(at("static_fact", n)))
                             for n in LENGTHS}))


@claim("unrelated-text-makes-bare-answers-easier", family="length", slow=True, min_n=30,
       source="priming project summary, length (lab notes: NLL 1.098 to 0.889 at 2,048 tokens)",
       needs=needs("bare", lengths=(256, 2048)), predicts=helps(delta=0.09))
def test_unrelated_text_makes_bare_answers_easier(rows, judge):
    """Without any prefix, the same answer is easier with 2,048 tokens of document than with 256."""
    judge(paired_benefit(rows(at("bare", 256)), rows(at("bare", 2048))))


@claim("beacons-do-not-help-at-1024-tokens", family="length", source=SOURCE, slow=True, min_n=50,
       needs=needs("bare", SPARSE, lengths=(1024,)), predicts=does_not_help(delta=0.15, effect=0.0))
def test_beacons_do_not_help_at_1024_tokens(rows, judge):
    """The prefix repeated every 128 tokens makes the answer no easier at 1,024 tokens."""
    judge(paired_benefit(rows(at("bare", 1024)), rows(at(SPARSE, 1024))))


@claim("beacons-do-not-help-at-2048-tokens", family="length", source=SOURCE, slow=True, min_n=50,
       needs=needs("bare", SPARSE, lengths=(2048,)), predicts=does_not_help(delta=0.15, effect=0.0))
def test_beacons_do_not_help_at_2048_tokens(rows, judge):
    """The prefix repeated every 128 tokens makes the answer no easier at 2,048 tokens."""
    judge(paired_benefit(rows(at("bare", 2048)), rows(at(SPARSE, 2048))))

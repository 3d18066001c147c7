"""What ``pytest claims -m gpu`` would take: tokens × parameters, an estimate and no measurement.

``python -m benchmarks.gpu_hours`` prints the table of the README. Counted are the tokens that each
cell's claims have read, a prefill that several conditions share once, without looks that stop
early; per passage, question and answer as many as its dataset has on average.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

from claims.harness.cells import cells_of, limit_of
from claims.harness.claims import finding_of, specified
from claims.harness.options import Settings
from claims.harness.registry import declared_claims
from invariants.support.settings import settings
from kvcore.conditions.parse import condition
from kvcore.conditions.recipes import Document, Prefill
from kvcore.measurements.needs import SHARES, Need, is_sweep
from kvcore.models.registry import entry_of

PARAMETERS = {
    "mistral-7b": 7.2e9,
    "gemma3-4b": 3.9e9,
    "qwen2.5-math-7b": 7.6e9,
    "gemma2-2b": 2.6e9,
    "gemma2-2b-it": 2.6e9,
}
LAYERS = {"gemma3-4b": 34}
OTHER_LAYERS = 32
DOCUMENT = {
    "squad_v2": 170,
    "hotpotqa": 1300,
    "pubmedqa": 320,
    "cnn_dailymail": 900,
    "narrativeqa": 900,
    "natural_questions": 2000,
}
"""Tokens of a passage, about; those of MS MARCO are `PASSAGE`."""
PASSAGE, PREFIX, ASKED = 130, 12, 30  # the last: query and answer, read once a condition
PASSAGES = 10  # of a list
TEXT, WRITTEN = 150, 90  # tokens of a text and of what a model writes for it
SWITCHED = 400  # tokens that one way to switch reads and writes, of one pair
TFLOPS = {"H100, A100": 100e12, "24 GB card": 30e12}


def million_tokens(asked: Settings) -> dict[str, float]:
    """Return for each model that needs a GPU how many million tokens its cells read."""
    needs: dict[tuple[str, str, str], set[str]] = defaultdict(set)
    for declared, test in declared_claims():
        spec = specified(declared, test)
        for cell in cells_of(spec, asked):
            if entry_of(cell.model).gpu:
                local = spec.at((cell.model, cell.dataset))
                own = finding_of(test, local, cell).needs
                needs[spec.kind.name, cell.model, cell.dataset].update(own)
    tokens: dict[str, float] = defaultdict(float)
    for (kind, model, dataset), names in needs.items():
        limit = limit_of((model, dataset), asked)
        tokens[model] += tokens_of(kind, model, dataset, names, limit) / 1e6
    return tokens


def tokens_of(kind: str, model: str, dataset: str, needs: Iterable[str], limit: int) -> float:
    """Return how many tokens a cell's needs read."""
    if kind == "hidden_states":
        return limit * sum(2 * TEXT + (WRITTEN if name != "human" else 0) for name in needs)
    if kind == "context_switch":
        return limit * SWITCHED * len(set(needs))
    spelled = [part for name in needs for part in name.split("~")]
    by_set: dict[str, set[str]] = defaultdict(set)
    asked = 0.0
    for name in spelled:
        for one in layers_of(name, model):
            need = Need.read(one)
            by_set[need.sample_set].add(need.condition)
            asked += samples_of(need.sample_set, limit) * ASKED
    return asked + sum(
        samples_of(sample_set, limit) * prefilled(conditions, sample_set, dataset)
        for sample_set, conditions in by_set.items()
    )


def layers_of(need: str, model: str) -> list[str]:
    """Return a need, or a sweep's layers one by one."""
    if not is_sweep(need):
        return [need]
    return [need.replace("*", f"{n}") for n in range(LAYERS.get(model, OTHER_LAYERS))]


def samples_of(sample_set: str, limit: int) -> float:
    """Return how many samples a set has, a passage of a list counted as one."""
    if sample_set.isdigit():
        return limit / SHARES["padded"]
    if sample_set in ("lists", "masked"):
        return limit / SHARES["lists"] * PASSAGES
    return limit / SHARES["choices"] if sample_set.startswith("seed") else limit


def prefilled(conditions: Iterable[str], sample_set: str, dataset: str) -> float:
    """Return the tokens of the distinct prefills of some conditions, of one sample."""
    length = int(sample_set) if sample_set.isdigit() else DOCUMENT.get(dataset, PASSAGE)
    distinct = {prefill for name in conditions for prefill in condition(name).prefills()}
    return sum(length_of(prefill, length) for prefill in distinct)


def length_of(prefill: Prefill, document: int) -> int:
    """Return the tokens of a prefill: BOS, and its parts."""
    parts = (
        document if isinstance(p, Document) or not hasattr(p, "times") else PREFIX * p.times
        for p in prefill.parts
    )
    return 1 + sum(parts)


def table(tokens: Mapping[str, float]) -> str:
    """Return the README's table, the largest first."""
    lines = [["model", "million tokens", *TFLOPS], ["---"] * (2 + len(TFLOPS))]
    for model, count in sorted(tokens.items(), key=lambda item: -item[1]):
        flops = 2 * PARAMETERS[model] * count * 1e6
        hours = [f"{flops / rate / 3600:.2g} h" for rate in TFLOPS.values()]
        lines.append([model, f"{count:.2g}", *hours])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main() -> None:
    """Print the table."""
    print(table(million_tokens(settings(models=(), datasets=()))))


if __name__ == "__main__":
    main()

"""docs/conditions.md: every condition and prefix, as explained on one sample of the golden texts.

``python -m invariants.support.conditions_page`` writes the page anew, after a condition was added
or what it explains was changed.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from invariants.support import golden
from kvcore import io, loading
from kvcore.conditions import registry
from kvcore.conditions.parse import condition
from kvcore.data.datasets import load_corpus
from kvcore.measurements import explain
from kvcore.measurements.explain import Explanation

PAGE = Path(__file__).parents[2] / "docs" / "conditions.md"
MODEL, SEED = "tiny-llama", 0
CONDITIONS = (
    *("bare", "bos_only", "framed", "bare_again", "separator", "qvi(0.25)"),
    *("full_context(oracle)", "one_base(oracle)", "no_reposition(oracle)"),
    *("reposition(oracle,model)", "rope_roundtrip(oracle)", "blocks(oracle,2,last)"),
    *("suffix(oracle)", "values_only(oracle)", "keys_only(oracle)", "values_of_another(oracle)"),
    *(
        "with_separator(oracle)",
        "values_early_layers(oracle,0.5)",
        "values_layers(oracle,0.25,0.5)",
    ),
    *("values_layer(oracle,1)", "values_early_positions(oracle,0.25)"),
    *("values_positions(oracle,0.25,0.75)", "amplified(oracle,2)", "interp(oracle,0.25)"),
    "beacons(oracle,30)",
    *("keep_first(oracle,2)", "keep_sink(oracle)", "swap_bos(oracle)", "bos_of_bare(oracle)"),
)
"""One example of each condition, in the order in which they are declared."""
PREFIXES: Mapping[str, str] = {
    "random": "as many random tokens as the query has, drawn by seed and sample id",
    "oracle": "the sample's own query",
    "static_fact": "the fixed question about key facts",
    "unrelated": "one sentence about nothing in any passage",
    "first_sentence": "the first sentence of the passage",
    "keywords(query)": "the content words of the query",
    "keywords(passage)": "the words of the passage with the largest TF-IDF",
    "keywords(another)": "such words of another passage",
    "static(definition)": "the fixed question about a definition",
    "static(procedure)": "the fixed question about a procedure",
    "static(quantity)": "the fixed question about a quantity",
    "static(problem)": "the fixed question about a problem",
    "static(meaning)": "the same about a meaning, as the lab notes word a definition",
    "static(cost)": "the same about cost and duration, as the lab notes word a quantity",
    "llm_surrogate(keyword)": "keywords that the model writes for the passage",
    "shuffled_surrogate(keyword)": "the same, its words shuffled",
    "surrogate_of_another(keyword)": "what the model writes for another passage",
    "click_history(2)": "the past query of the passage that is nearest to the query, twice",
    "repeat(oracle,2)": "another prefix several times",
    'literal("any text")': "any text",
}
"""Examples of each prefix, and what it is."""
HEAD = """\
# Conditions

Every condition and every prefix, on one sample: what is cached, what the query sees, and what the
comparison with `bare` tests. This page is written from what `kvcore.explain` says
(`python -m invariants.support.conditions_page`), with the model `{model}`
on the query "{query}" and a passage of {words} words. `--kv-explain` prints the same
for the claims of a run.

A prefix's own name stands for its plain truncated condition: read the prefix, then the document;
drop the prefix; turn the keys back. Where a condition takes a prefix, any prefix may stand, and
`static_fact` where it is left out.
"""
MASKS = """\
## Who attends to whom

Rows attend to columns; of each part the first and the last two tokens are drawn. Conditions that
stand together have the same masks and differ in what is done to the caches.
"""


def page() -> str:
    """Return the page as the code at hand explains its conditions."""
    lm = loading.load(MODEL, device="cpu")
    corpus = load_corpus(str(golden.FOLDER / "samples.jsonl"))
    sample, explained = explain.on_one_sample(lm, corpus, [*CONDITIONS, *PREFIXES], SEED)
    conditions, prefixes = explained[: len(CONDITIONS)], explained[len(CONDITIONS) :]
    head = HEAD.format(model=MODEL, query=sample.query, words=len(sample.passage.split()))
    parts = [
        head,
        "## Conditions\n",
        _table(
            ("example", "what it tests", "cached", "then", "what the query sees"),
            [_condition_row(each) for each in conditions],
        ),
        "\n## Prefixes\n",
        _table(
            ("example", "what it is", "its text here, with the first and last tokens"),
            [_prefix_row(each) for each in prefixes],
        ),
        f"\n{MASKS}",
        *_pictures([*conditions, prefixes[0]]),
    ]
    return "\n".join(parts)


def forms_of(examples: Iterable[str]) -> set[str]:
    """Return the names that examples are of, without their arguments."""
    return {spelled.split("(")[0] for spelled in examples}


def check_complete() -> None:
    """Demand an example of every condition and prefix that there is."""
    assert forms_of(CONDITIONS) == set(registry.CONDITIONS)
    assert forms_of(PREFIXES) == set(registry.PREFIXES)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(
        f"| {' | '.join(cell.replace('|', '&#124;') for cell in line)} |\n" for line in lines
    )


def _condition_row(explained: Explanation) -> list[str]:
    """Return a condition's example, its sentence, its prefills, its operations and what is seen."""
    lines = explained.text.splitlines()
    prefills = [f"`[{each}`" for each in _after("prefill [", lines)]
    steps = _after("then: ", lines)
    (seen,) = _after("what the query sees: ", lines)
    return [
        f"`{explained.condition}`",
        condition(explained.condition).tests,
        " and ".join(prefills),
        "; ".join(steps) or "–",
        seen,
    ]


def _prefix_row(explained: Explanation) -> list[str]:
    """Return a prefix's example, what it is, and its first and last tokens."""
    copies = [line for line in explained.text.splitlines() if "tokens, positions" in line]
    copies = [line.split(": ", 1)[1] for line in copies if line.startswith("  prefix ")]
    tokens, times = copies[0], f" × {len(copies)}" if copies[1:] else ""
    words = ["…" if each == "…" else ast.literal_eval(each) for each in _quoted(tokens)]
    text = "".join(words).encode("unicode_escape").decode("ascii").replace("\\u2026", " … ")
    return [f"`{explained.condition}`", PREFIXES[explained.condition], f"`{text}`{times}"]


def _quoted(tokens: str) -> list[str]:
    """Return tokens as an explanation quotes them, one by one, and the mark of those left out."""
    found, rest = [], tokens
    while rest:
        if rest[0] in "'\"":
            end = rest.index(rest[0], 1)
            while rest[end - 1] == "\\" and rest[end - 2] != "\\":
                end = rest.index(rest[0], end + 1)
            found.append(rest[: end + 1])
            rest = rest[end + 1 :]
        else:
            found += [each for each in (rest[0],) if each == "…"]
            rest = rest[1:]
    return found


def _after(beginning: str, lines: Iterable[str]) -> list[str]:
    return [line.removeprefix(beginning) for line in lines if line.startswith(beginning)]


def _pictures(explained: Iterable[Explanation]) -> list[str]:
    """Return the masks, each drawn once, under the examples that have them."""
    drawn: dict[str, list[str]] = {}
    for each in explained:
        lines = [
            line for panel in each.panels for line in (panel.title, *explain.picture(panel), "")
        ]
        drawn.setdefault("\n".join(lines), []).append(f"`{each.condition}`")
    return [
        f"{', '.join(names)}\n\n```text\n{text.rstrip()}\n```\n" for text, names in drawn.items()
    ]


def main() -> None:
    """Write the page."""
    check_complete()
    io.write_atomically(PAGE, page())


if __name__ == "__main__":
    main()

"""What the kinds beside answer scores do to one sample, drawn from the passes that they run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from kvcore.conditions import switching
from kvcore.conditions.parse import condition
from kvcore.conditions.switching import CachePlan, Switch, switch_method
from kvcore.data.sample import Corpus
from kvcore.data.texts import Text
from kvcore.engine import forward, limits
from kvcore.engine.forward import ForwardInput
from kvcore.errors import KvError
from kvcore.measurements import divergence, explain
from kvcore.measurements.context_switch import cases, passes
from kvcore.measurements.continuations import load_continuations
from kvcore.measurements.explain import Explanation, Panel
from kvcore.measurements.hidden_states import TokenText
from kvcore.measurements.text_sources import writer_of
from kvcore.models.lm import LM

WROTE = {
    "human": "the author's own continuation",
    "greedy": "as many tokens by the model itself, each time the likeliest",
    "shuffled": "the author's tokens in random order: a control",
}


# --- divergence ---------------------------------------------------------------------------------


def pair_explanations(
    lm: LM, corpus: Corpus, pairs: Mapping[str, tuple[str, str]], seed: int
) -> list[Explanation]:
    """Explain pairs of conditions: both caches, and the numbers that come of them on a sample."""
    names = list(dict.fromkeys(name for views in pairs.values() for name in views))
    sample, explanations = explain.on_one_sample(lm, corpus, names, seed)
    shown = dict(zip(names, explanations, strict=True))
    of_pairs = []
    for pair, (first, second) in pairs.items():
        views = [condition(name) for name in (first, second)]
        read = divergence.next_token_distributions(lm, [sample], views, seed=seed)
        p, q = (read[0, view.name] for view in views)
        if isinstance(p, str) or isinstance(q, str):
            raise KvError(f"{pair}: {p if isinstance(p, str) else q}.")
        either = np.union1d(p.ids, q.ids)
        lines = [
            f"{pair}: how far apart two caches put the first token behind the question",
            "",
            f"likeliest tokens kept of each: {p.ids.size}; of either: {either.size}; the rest of "
            "the vocabulary is one bucket",
            f"mass in the bucket: {p.masses(either)[-1]:.3g} under {first}, "
            f"{q.masses(either)[-1]:.3g} under {second}",
            f"likeliest under {first}: {_likeliest(lm, p)}",
            f"likeliest under {second}: {_likeliest(lm, q)}",
            f"Jensen-Shannon {divergence.js(p, q):.4g} nats (at most ln 2 = 0.693), "
            f"Kullback-Leibler {divergence.kl(p, q):.4g} nats",
        ]
        both = list(dict.fromkeys((first, second)))
        lines += [line for name in both for line in ("", shown[name].text)]
        panels = tuple(panel for name in both for panel in shown[name].panels)
        of_pairs.append(Explanation(pair, "\n".join(lines), panels))
    return of_pairs


def _likeliest(lm: LM, view: divergence.Distribution, count: int = 3) -> str:
    """Spell the likeliest tokens with their probabilities."""
    order = np.argsort(-view.log_probs, kind="stable")[:count]
    return ", ".join(
        f"{lm.tokenizer.decode([int(view.ids[i])])!r} {np.exp(view.log_probs[i]):.2f}"
        for i in order
    )


# --- context switches ---------------------------------------------------------------------------


def switch_explanations(
    lm: LM, ways: Mapping[str, tuple[str, Switch]], steps: int, seed: int
) -> list[Explanation]:
    """Explain ways to switch, each on a switch: what is cached, what is read on top of it.

    `ways`: by the need as claims spell it, the way's own name and the switch; a need that begins
    with ``free:`` is shown up to the first token that the model writes.
    """
    return [
        _switch_explanation(lm, need, method, switch, steps, seed)
        for need, (method, switch) in ways.items()
    ]


def _switch_explanation(
    lm: LM, need: str, name: str, switch: Switch, steps: int, seed: int
) -> Explanation:
    # 1. Plan what is cached and read, as a measurement does.
    (tokenized,) = cases.tokenize_all(lm, [switch])
    method = switch_method(name)
    free = need.startswith("free:")
    if free:
        opening = cases.plan_answer(lm, tokenized, method, 1, seed).plan
        read, spans = opening.read, (*opening.cached, *opening.slot_spans)
    else:
        case, (number,) = cases.build_case(lm, tokenized, [method], steps, seed)
        plan = case.plans[number]
        opening, read, spans = plan.opening, plan.read, plan.slot_spans

    # 2. Run the prefills and build the pass on top of them.
    prefills = passes.run_prefills(lm, [opening], *limits.pass_limits(lm))
    cache = passes.assemble_cache(lm, opening, prefills)
    step = passes.append_input(lm, cache, [read])
    labels = tuple(switching.SPANS[span] for span in spans)

    # 3. Draw and write everything down.
    runs = [(forward.pad_ids(lm, [run], [0]), own) for run, own in _runs(opening)]
    panels = [
        panel
        for number, (run, own) in enumerate(runs, start=1)
        for panel in explain.mask_panels(lm, f"prefill {number}", run, own)
    ]
    panels += explain.mask_panels(lm, "what is read on top of the cache", step, labels)
    stream = "of its own text" if need.endswith("@own") else "of the written solution"
    lines = [
        f"{need}: {switching.METHOD_MEANINGS[method.kind]}",
        "",
        f"switched behind {len(tokenized.before)} tokens {stream}; "
        + ("then the model goes on by itself" if free else "what follows is the same for all ways"),
    ]
    for number, (run, own) in enumerate(runs, start=1):
        lines += ["", f"prefill {number}", *explain.token_lines(lm, run, own)]
    taken = opening.slots_taken
    if taken[1]:
        lines += ["", f"then: the first {taken[0]} slots of 1 and the last {taken[1]} of 2, turned"]
    lines += ["", explain.visible_line(cache, labels), "", "read on top of the cache"]
    lines += explain.token_lines(lm, step, labels[cache.slots :])
    lines += _pictures(panels)
    return Explanation(need, "\n".join(lines), tuple(panels))


def _runs(opening: CachePlan) -> list[tuple[tuple[int, ...], tuple[str, ...]]]:
    """Return each run that is prefilled and what its slots hold."""
    if len(opening.runs) == 1:
        return [(opening.runs[0], tuple(switching.SPANS[s] for s in opening.cached))]
    first, last = opening.runs
    shared = 0  # what both end with was generated; the contexts stand before
    while shared < min(len(first), len(last)) - 1 and first[-1 - shared] == last[-1 - shared]:
        shared += 1
    return [
        (run, ("bos", *[name] * (len(run) - 1 - shared), *["generated"] * shared))
        for run, name in ((first, "original"), (last, "injected"))
    ]


# --- hidden states ------------------------------------------------------------------------------


def source_explanations(
    lm: LM, texts: Sequence[Text], sources: Sequence[str], seed: int
) -> list[Explanation]:
    """Explain who wrote a continuation, on the shortest of some texts that can be measured.

    Raises KvError if none of them can.
    """
    for text in sorted(texts, key=lambda t: len(t.prompt + t.continuation)):
        written = load_continuations(lm, [text], sources, seed=seed).texts
        if written:
            return [_source_explanation(lm, each) for each in written]
    raise KvError(f"none of the first texts can be measured with {lm.name}.")


def _source_explanation(lm: LM, text: TokenText) -> Explanation:
    step: ForwardInput = forward.pad_ids(lm, [(lm.bos_id, *text.ids)], [0])
    labels = ("bos", *["prompt"] * len(text.prompt), *["continuation"] * len(text.continuation))
    panels = explain.mask_panels(lm, "one pass over the whole text", step, labels)
    writer = writer_of(text.source)
    sampled = f"as many tokens sampled from the model, {text.source}"
    by_another = f"as many tokens by {writer}, each time the likeliest"
    wrote = by_another if writer else WROTE.get(text.source, sampled)
    lines = [
        f"{text.source}: {wrote}",
        "",
        *explain.token_lines(lm, step, labels),
        "",
        f"counted at every layer: the {len(text.continuation)} tokens of the continuation and the "
        f"{len(text.continuation) - 1} steps between them; neither BOS nor the prompt",
        *_pictures(panels),
    ]
    return Explanation(text.source, "\n".join(lines), tuple(panels))


def _pictures(panels: Sequence[Panel]) -> list[str]:
    return [
        "",
        "masks (rows attend to columns; first and last tokens of each part)",
        *(line for panel in panels for line in (panel.title, *explain.picture(panel))),
    ]

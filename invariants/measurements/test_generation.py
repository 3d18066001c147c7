"""What a model writes is exact and written once, and a twin for each check breaks it on purpose.

The oracle reads the whole text anew for every token: one row, no padding, no cache, the model's
own masks and positions. Prompts, seeds and weights are fixed, so the twins always fail alike.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats as scipy_stats

from invariants.support.comparing import wrong_rows
from kvcore import loading, tokenization
from kvcore.cache import masks
from kvcore.conditions.parse import condition
from kvcore.conditions.registry import STYLES
from kvcore.data.sample import Sample
from kvcore.errors import KvError, StoreWarning
from kvcore.measurements import generation, surrogate_queries, surrogate_store
from kvcore.models.files import locate
from kvcore.models.lm import LM
from kvcore.store import artifacts

ROOT = Path(__file__).parents[2]
WINDOWED = "tiny-mistral"
NEW = 12  # tokens: more than a window of 8
DRAWS = 4000
Text = tuple[int, ...]


def some_ids(length: int, seed: int) -> Text:
    """Draw ordinary token ids."""
    return tuple(int(i) for i in np.random.default_rng(seed).integers(2, 384, length))


PROMPTS = tuple(some_ids(length, length) for length in (20, 0, 5, 13, 1))
SAMPLES = tuple(
    Sample(
        f"what is {word}",
        f"The {word} is the sum of the {word}s along an axis.",
        f"a {word}",
        id=word,
    )
    for word in ("mean", "key", "value", "prefix", "document", "sample")
)


def plain_logits(lm: LM, read: Sequence[int]) -> torch.Tensor:
    """Return the next token's logits by one full forward."""
    with torch.inference_mode():
        logits: torch.Tensor = lm.model(torch.tensor([list(read)]), use_cache=False).logits[0, -1]
    return logits.double()


def plain_greedy(
    lm: LM,
    prompt: Sequence[int],
    n: int,
    stop: frozenset[int] = frozenset(),
    least: int = 0,
    never: frozenset[int] = frozenset(),
) -> Text:
    """Write greedily, reading everything anew for every token."""
    read = [lm.bos_id, *prompt]
    for step in range(n):
        logits = plain_logits(lm, read)
        logits[sorted(never | (stop if step < least else frozenset()))] = -torch.inf
        read.append(int(logits.argmax()))
        if read[-1] in stop:
            break
    return tuple(read[1 + len(prompt) :])


# --- greedy -------------------------------------------------------------------------------------


def stops_for(lm: LM) -> frozenset[int]:
    """Choose stop tokens that end the prompts' texts at different steps."""
    full = [plain_greedy(lm, prompt, NEW) for prompt in PROMPTS[:2]]
    return frozenset({full[0][3], full[1][6]})


def check_greedy_is_plain(lm: LM) -> None:
    """A batch's greedy texts are those of one full forward per token, rows leaving on the way."""
    assert generation.generate(lm, PROMPTS, max_new_tokens=NEW, stop=()) == [
        plain_greedy(lm, prompt, NEW) for prompt in PROMPTS
    ]
    stop = stops_for(lm)
    assert generation.generate(lm, PROMPTS, max_new_tokens=NEW, stop=stop) == [
        plain_greedy(lm, prompt, NEW, stop) for prompt in PROMPTS
    ]


def check_batch_is_alone(lm: LM) -> None:
    """Neither the other rows nor the batch's size change a text."""
    whole = generation.generate(lm, PROMPTS, max_new_tokens=NEW, stop=())
    alone = [
        generation.generate(lm, [prompt], max_new_tokens=NEW, stop=())[0] for prompt in PROMPTS
    ]
    cut = generation.generate(lm, PROMPTS, max_new_tokens=NEW, stop=(), batch_tokens=40)
    assert whole == alone == cut
    assert generation.generate(lm, PROMPTS[::-1], max_new_tokens=NEW, stop=()) == whole[::-1]


def test_greedy_is_plain(lm: LM) -> None:
    """Catches a token that a full forward would not choose, on every architecture."""
    check_greedy_is_plain(lm)


def test_batch_is_alone(lm: LM) -> None:
    """Catches a text that hangs on its batch."""
    check_batch_is_alone(lm)


def no_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let padding be attended to."""
    start = generation.start_batch

    def broken(lm: LM, read: Sequence[Text]) -> Any:
        live = start(lm, read)
        return dataclasses.replace(live, real=torch.ones_like(live.real))

    monkeypatch.setattr(generation, "start_batch", broken)


def frozen_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give every new token the position of the one before."""
    extended = generation.LiveBatch.extended

    def broken(self: Any, chosen: Sequence[int], going: Sequence[int]) -> Any:
        live = extended(self, chosen, going)
        at = live.positions.clone()
        at[:, -1] = at[:, -2]
        return dataclasses.replace(live, positions=at)

    monkeypatch.setattr(generation.LiveBatch, "extended", broken)


def no_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let windowed layers see everything."""
    visible = masks.visible
    monkeypatch.setattr(masks, "visible", lambda q, k, real, _window: visible(q, k, real, None))


@pytest.mark.parametrize(
    ("model", "breakage"),
    [
        ("tiny-llama", no_padding),
        ("tiny-llama", frozen_positions),
        (WINDOWED, no_window),
        ("tiny-llama", wrong_rows),
    ],
)
def test_twin_greedy_is_plain(
    model: str, breakage: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a check blind to padding, positions, windows or rows that are wrong."""
    lm = loading.load(model, device="cpu")
    breakage(monkeypatch)
    with pytest.raises(AssertionError):
        check_greedy_is_plain(lm)


def test_twin_batch_is_alone(llama: LM, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a check blind to padding that is attended to."""
    no_padding(monkeypatch)
    with pytest.raises(AssertionError):
        check_batch_is_alone(llama)


# --- when a text ends ---------------------------------------------------------------------------


def check_ends(lm: LM) -> None:
    """A text ends with its first stop token, not before its least length, and at the most."""
    full = plain_greedy(lm, PROMPTS[0], NEW)
    stop, never = frozenset({full[0]}), frozenset({full[1]})

    def write(least: int, stop: frozenset[int] | None, never: frozenset[int]) -> Text:
        return generation.generate(
            lm, PROMPTS[:1], max_new_tokens=NEW, stop=stop, never=never, min_new_tokens=least
        )[0]

    assert write(0, stop, frozenset()) == full[:1]
    for least in (0, 1, 4, NEW):
        text = write(least, stop, never)
        assert text == plain_greedy(lm, PROMPTS[0], NEW, stop, least, never)
        assert least <= len(text) <= NEW
        assert not never & set(text)
    everything_else = frozenset(range(384)) - generation.end_ids(lm)
    assert write(0, None, everything_else) == (lm.tokenizer.eos_token_id,)


def test_ends(lm: LM) -> None:
    """Catches a text that ends too early or too late, and a banned token that is chosen."""
    check_ends(lm)


def test_twin_ends_bans(llama: LM, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a check blind to bans that are not heeded."""
    monkeypatch.setattr(generation.DecodingRule, "banned", lambda _self, _step: [])
    with pytest.raises(AssertionError):
        check_ends(llama)


def test_twin_ends_defaults(llama: LM, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a check blind to the model's own end tokens left out."""
    end = generation.end_ids(llama)
    known = iter([frozenset[int]()])  # what generate asks for; the check itself still knows
    monkeypatch.setattr(
        generation,
        "end_ids",
        lambda _lm: end if (sys._getframe(1).f_code.co_name == "check_ends") else next(known),
    )
    with pytest.raises(AssertionError):
        check_ends(llama)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens=0 must be 1 or more"),
        ({"max_new_tokens": 3, "min_new_tokens": 4}, "min_new_tokens=4 must be in 0..3"),
        ({"max_new_tokens": 3, "temperature": -1.0}, "positive number"),
        ({"max_new_tokens": 3, "temperature": 1.0}, "needs one seed"),
        ({"max_new_tokens": 3, "temperature": 1.0, "seeds": [1]}, "needs one seed"),
        ({"max_new_tokens": 3, "stop": [384]}, "holds the id 384"),
        ({"max_new_tokens": 3, "never": range(384)}, "no token to choose"),
        ({"max_new_tokens": 2040}, "reach past the 2048 positions"),
    ],
)
def test_one_clear_line(llama: LM, asked: dict[str, Any], said: str) -> None:
    """Catches a bad request that is not refused in one line."""
    with pytest.raises(KvError, match=said) as error:
        generation.generate(llama, PROMPTS, **asked)
    assert "\n" not in str(error.value)


def test_unknown_id_and_style(llama: LM, tmp_path: Path) -> None:
    """Catches an id outside the vocabulary or a misspelled style that passes."""
    with pytest.raises(KvError, match="prompt 1 holds the id 999"):
        generation.generate(llama, [(5,), (6, 999)], max_new_tokens=1)
    with pytest.raises(KvError, match="did you mean 'keyword'"):
        surrogate_queries.surrogates(llama, SAMPLES, "keywrd")
    with pytest.raises(KvError, match="did you mean 'keyword'"):
        surrogate_store.with_surrogates(llama.files, lambda: llama, SAMPLES, ["keywrd"], tmp_path)


# --- sampling -----------------------------------------------------------------------------------


def sampled(
    lm: LM, prompts: Sequence[Text], seeds: Sequence[int], n: int = NEW, temperature: float = 0.8
) -> list[Text]:
    """Sample texts that no stop token ends."""
    return generation.generate(
        lm, prompts, max_new_tokens=n, temperature=temperature, seeds=seeds, stop=()
    )


def check_seed_decides(lm: LM) -> None:
    """A text hangs on its prompt and seed, not on what else is in the batch."""
    seeds = [7, 1, 7, 3, 5]
    texts = sampled(lm, PROMPTS, seeds)
    assert texts == sampled(lm, PROMPTS, seeds)
    assert texts[::-1] == sampled(lm, PROMPTS[::-1], seeds[::-1])
    for text, prompt, seed in zip(texts, PROMPTS, seeds, strict=True):
        assert sampled(lm, [prompt], [seed]) == [text]
    same = sampled(lm, [PROMPTS[2]] * 4, [1, 1, 2, 3])
    assert same[0] == same[1]
    assert len(set(same)) == 3


def p_value(counts: np.ndarray, probabilities: np.ndarray) -> float:
    """Test counts by chi-square, tokens expected fewer than ten times put together."""
    expected = probabilities * counts.sum()
    rare = expected < 10
    found = np.append(counts[~rare], counts[rare].sum())
    wanted = np.append(expected[~rare], expected[rare].sum())
    kept = wanted > 0
    statistic = ((found[kept] - wanted[kept]) ** 2 / wanted[kept]).sum()
    return float(scipy_stats.chi2.sf(statistic, kept.sum() - 1))


def check_frequencies(lm: LM, temperature: float) -> None:
    """Tokens come as often as softmax(logits / temperature) says, also the second one."""
    prompt = PROMPTS[2]
    texts = np.array(sampled(lm, [prompt] * DRAWS, range(DRAWS), 2, temperature))
    first = (plain_logits(lm, (lm.bos_id, *prompt)) / temperature).softmax(0).numpy()
    assert p_value(np.bincount(texts[:, 0], minlength=384), first) > 1e-4
    likely = int(first.argmax())
    second = (plain_logits(lm, (lm.bos_id, *prompt, likely)) / temperature).softmax(0).numpy()
    after = texts[texts[:, 0] == likely, 1]
    assert len(after) > DRAWS * first[likely] / 2
    assert p_value(np.bincount(after, minlength=384), second) > 1e-4


@pytest.mark.parametrize("model", ["tiny-llama", WINDOWED, "tiny-gemma3"])
def test_seed_decides(model: str) -> None:
    """Catches a sampled text that hangs on more than prompt and seed."""
    check_seed_decides(loading.load(model, device="cpu"))


@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_frequencies(llama: LM, temperature: float) -> None:
    """Catches tokens that come more or less often than the softmax says."""
    check_frequencies(llama, temperature)


def test_twin_seed_decides(llama: LM, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a check blind to one generator for the whole batch."""
    monkeypatch.setattr(  # one generator for the whole batch
        generation,
        "uniform_numbers",
        lambda count, rule, seeds: np.random.default_rng(seeds[0]).random(
            (count, rule.max_new_tokens)
        ),
    )
    with pytest.raises(AssertionError):
        check_seed_decides(llama)


def test_twin_frequencies_of_noise(llama: LM, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a check blind to numbers that are not uniform."""
    noise = generation.uniform_numbers
    monkeypatch.setattr(generation, "uniform_numbers", lambda *given: noise(*given) ** 1.5)
    with pytest.raises(AssertionError):
        check_frequencies(llama, 0.5)


def test_twin_frequencies_of_temperature(llama: LM, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a check blind to another temperature."""
    choose = generation.choose_tokens
    monkeypatch.setattr(
        generation,
        "choose_tokens",
        lambda lm, logits, rule, *more: choose(
            lm, logits, dataclasses.replace(rule, temperature=0.9 * rule.temperature), *more
        ),
    )
    with pytest.raises(AssertionError):
        check_frequencies(llama, 0.5)


# --- surrogates ---------------------------------------------------------------------------------


def check_surrogates(lm: LM) -> None:
    """A surrogate is what the model writes greedily behind the prompt, one clean line of it."""
    long = Sample("q", "the sum of the entries " * 60, "a", id="long")
    samples = (*SAMPLES[:2], long)
    newlines = frozenset(i for i in range(2, 384) if "\n" in lm.tokenizer.decode([i]))
    for style in STYLES:
        before, behind = surrogate_queries.PROMPTS[style]
        found = surrogate_queries.surrogates(lm, samples, style)
        for sample, text in zip(samples, found, strict=True):
            passage = tokenization.encode(lm.tokenizer, f" {sample.passage.strip()}")[:256]
            prompt = (
                *tokenization.encode(lm.tokenizer, before),
                *passage,
                *tokenization.encode(lm.tokenizer, behind),
            )
            ids = plain_greedy(lm, prompt, 24, newlines | {1}, 3, frozenset({0}))
            said = str(lm.tokenizer.decode([i for i in ids if i != 1]))
            assert text == surrogate_queries.cleaned(said)
            assert len(text.split()) <= surrogate_queries.MAX_WORDS
        assert any(found)
        asked_else = [dataclasses.replace(s, query="other", answer="other") for s in samples[::-1]]
        assert surrogate_queries.surrogates(lm, asked_else, style) == found[::-1]


def test_surrogates(llama: LM) -> None:
    """Catches a surrogate that is not what the model writes behind the prompt."""
    check_surrogates(llama)


def test_twin_surrogates_of_another_passage(llama: LM, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a check blind to another passage."""
    prompt = surrogate_queries.surrogate_prompt
    monkeypatch.setattr(
        surrogate_queries,
        "surrogate_prompt",
        lambda lm, passage, style: prompt(lm, passage[::-1], style),
    )
    with pytest.raises(AssertionError):
        check_surrogates(llama)


def test_twin_surrogates_of_the_whole_passage(llama: LM, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a check blind to a passage cut elsewhere."""
    monkeypatch.setattr(surrogate_queries, "PASSAGE_TOKENS", 200)
    with pytest.raises(AssertionError):
        check_surrogates(llama)


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        (' "How long?"\nText: more', "How long?"),
        ("\n\n- yeast, sugar,\n", "yeast, sugar"),
        ("**dough**\u2028rising", "dough"),
        ("a\ufffd\x07b", "a b"),
        (" ".join(str(n) + "x" for n in range(30)), " ".join(str(n) + "x" for n in range(16))),
        ("", ""),
        (" \n ", ""),
        ("1 + 1 = 2", ""),
        ('""', ""),
    ],
)
def test_cleaned(said: str, kept: str) -> None:
    """Catches wrapping, broken characters or further lines left in a query."""
    assert surrogate_queries.cleaned(said) == kept


def test_nothing_usable(llama: LM, monkeypatch: pytest.MonkeyPatch) -> None:
    """Passages that cannot be read, and an example written over again, give no text."""
    odd = [Sample("q", text, "a", id=text) for text in ("\udc80", " ")]
    assert surrogate_queries.surrogates(llama, odd, "need") == ["", ""]
    assert surrogate_queries.surrogates(llama, [], "need") == []
    example = surrogate_queries.EXAMPLES[0][1]["need"]
    monkeypatch.setattr(surrogate_queries, "cleaned", lambda _text: example)
    assert surrogate_queries.surrogates(llama, SAMPLES[:1], "need") == [""]


# --- texts on disk ------------------------------------------------------------------------------


@dataclasses.dataclass
class Counted:
    """What a test saw the model asked for; it only writes where `truly` is set."""

    loads: int = 0
    truly: bool = False
    asked: list[tuple[str, ...]] = dataclasses.field(default_factory=list)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch, llama: LM) -> Counted:
    """Count what is written; two samples a file."""
    surrogates = surrogate_queries.surrogates
    seen = Counted()

    def counting(lm: LM, samples: Sequence[Sample], style: str) -> list[str]:
        seen.asked.append(tuple(s.id for s in samples))
        return (
            surrogates(lm, samples, style)
            if seen.truly
            else [f"{style} of {s.passage}" for s in samples]
        )

    def load(*_name: Any, **_options: Any) -> LM:
        seen.loads += 1
        return llama

    monkeypatch.setattr(surrogate_queries, "surrogates", counting)
    monkeypatch.setattr(loading, "load", load, raising=False)
    monkeypatch.setattr(surrogate_store, "FILE_SAMPLES", 2)
    return seen


def write(
    root: Path,
    samples: Sequence[Sample] = SAMPLES,
    styles: Sequence[str] = ("keyword",),
    **other: Any,
) -> tuple[Sample, ...]:
    """Run the production code with tiny-llama."""
    files = dataclasses.replace(locate("tiny-llama"), **other)
    return surrogate_store.with_surrogates(
        files, lambda: loading.load("tiny-llama"), samples, styles, root
    )


def test_texts_are_attached(llama: LM, counted: Counted, tmp_path: Path) -> None:
    """Catches a text attached to another sample, style or condition."""
    counted.truly = True
    check_attached(llama, tmp_path)
    assert counted.loads == 1


def check_attached(lm: LM, root: Path) -> None:
    """Each sample gets its own texts, which the conditions read, and stays what it was."""
    own = (("past_query", "before"), ("surrogate(need)", "old"))
    given = [dataclasses.replace(s, texts=own) for s in SAMPLES]
    samples = write(root, given, STYLES)
    for style in STYLES:
        texts = surrogate_queries.surrogates(lm, SAMPLES, style)
        for sample, text in zip(samples, texts, strict=True):
            assert dict(sample.texts).get(f"surrogate({style})", "") == text
            (prefix,) = (
                p for p in condition(f"llm_surrogate({style})").prefixes() if p.kind == "own"
            )
            read = tokenization.tokenize(lm.tokenizer, sample)
            with contextlib.nullcontext() if text else pytest.raises(tokenization.Unusable):
                assert tokenization.prefix_ids(
                    lm.tokenizer, read, prefix, 0
                ) == tokenization.encode(lm.tokenizer, f"{text}\n")
    assert [dataclasses.replace(s, texts=()) for s in samples] == list(SAMPLES)
    assert all(dict(s.texts)["past_query"] == "before" for s in samples)


def test_twin_texts_are_attached(
    llama: LM, counted: Counted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a check blind to samples left without their texts."""
    monkeypatch.setattr(surrogate_store, "replace", lambda sample, **_changes: sample)
    with pytest.raises(AssertionError):
        check_attached(llama, tmp_path)
    assert counted.loads == 1


def test_no_usable_text_attaches_none() -> None:
    """Catches an empty text that is attached, or lists of unlike length."""
    first, second = surrogate_store.attach(SAMPLES[:2], {"keyword": ["", "x"], "need": ["y", ""]})
    assert first.texts == (("surrogate(need)", "y"),)
    assert second.texts == (("surrogate(keyword)", "x"),)
    with pytest.raises(KvError, match="1 texts of style 'need' for 2 samples"):
        surrogate_store.attach(SAMPLES[:2], {"need": ["y"]})


def check_missing_only(seen: Counted, root: Path) -> None:
    """What is there is not written again, and the model is not even loaded for it."""
    first = write(root, SAMPLES[:3])
    assert seen.asked == [("mean", "key"), ("value",)]
    assert write(root)[:3] == first
    assert seen.asked[2:] == [("prefix",), ("document", "sample")]
    assert seen.loads == 2
    again = write(root, SAMPLES[::-1])
    assert (again[::-1], seen.loads, len(seen.asked)) == (write(root), 2, 4)


def test_missing_only(counted: Counted, tmp_path: Path) -> None:
    """Catches a text that is written again, or a model loaded for nothing."""
    check_missing_only(counted, tmp_path)
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "part-1.parquet")
    assert len(pd.read_parquet(tmp_path)) == 1  # the store beside it stays readable as a folder


def test_twin_missing_only(
    counted: Counted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a check blind to texts that are never found again."""
    usable, calls = artifacts.usable_texts, iter(range(1000))
    monkeypatch.setattr(
        artifacts,
        "usable_texts",
        lambda *a, **kw: usable(*a, **kw) if next(calls) % 3 == 2 else {},
    )
    with pytest.raises(AssertionError):
        check_missing_only(counted, tmp_path)


def check_keys(seen: Counted, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another model, dtype, tokenizer, style, method, id or passage is another text."""
    write(root)
    changed = [{"model_id": "x"}, {"dtype": "x"}, {"tokenizer_id": "x"}]
    runs: list[Callable[[], object]] = [
        *(lambda other=other: write(root, **other) for other in changed),
        lambda: write(root, styles=("need",)),
        lambda: write(root, [dataclasses.replace(s, id=f"{s.id}s") for s in SAMPLES]),
        lambda: write(root, [dataclasses.replace(s, passage="A new one.") for s in SAMPLES]),
    ]
    for number, run in enumerate(runs, 2):
        run()
        assert len(seen.asked) == 3 * number
    with monkeypatch.context() as patch:
        patch.setattr(surrogate_store, "METHOD", "x")
        write(root)
    assert len(seen.asked) == 3 * (len(runs) + 2)


def test_keys(counted: Counted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a stored text that is used for another model, style, id or passage."""
    check_keys(counted, tmp_path, monkeypatch)


@pytest.mark.parametrize("left_out", range(len(surrogate_store.KEY)), ids=surrogate_store.KEY)
def test_twin_keys(
    left_out: int, counted: Counted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a check blind to a key that lacks a part."""
    key = surrogate_store.surrogate_key

    def broken(*given: Any) -> tuple[str, ...]:
        parts = key(*given)
        return (*parts[:left_out], "", *parts[left_out + 1 :])

    monkeypatch.setattr(surrogate_store, "surrogate_key", broken)
    with pytest.raises(AssertionError):
        check_keys(counted, tmp_path, monkeypatch)


KILLED = """
import json, os, signal, sys
from pathlib import Path
import kvcore
from kvcore.data.sample import Sample
from kvcore.measurements import surrogate_queries, surrogate_store
from kvcore.models.files import locate

def third_time_dies(function):
    calls = []
    def dying(*given):
        calls.append(1)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*given)
    return dying

folder, moment, samples = sys.argv[1:]
if moment == "writing":
    load = lambda: kvcore.load("tiny-llama", device="cpu")
    surrogate_queries.surrogates = third_time_dies(surrogate_queries.surrogates)
else:
    load = lambda: None
    def written(lm, samples, style):
        return [f"{style} of {s.passage}" for s in samples]
    surrogate_queries.surrogates = written
    os.replace = third_time_dies(os.replace)
surrogate_store.FILE_SAMPLES = 2
read = [Sample(*parts) for parts in json.loads(samples)]
surrogate_store.with_surrogates(locate("tiny-llama"), load, read, ["keyword"], Path(folder))
"""


@pytest.mark.parametrize("moment", ["writing", "renaming"])
def test_killed_and_resumed(moment: str, counted: Counted, tmp_path: Path) -> None:
    """A killed process costs the file at work; resumed texts are those of an undisturbed run."""
    samples = json.dumps([(s.query, s.passage, s.answer, s.id) for s in SAMPLES])
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "a"), moment, samples],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    counted.truly = moment == "writing"
    resumed = write(tmp_path / "a")
    assert counted.asked == [("document", "sample")]
    assert resumed == write(tmp_path / "b")
    assert any(sample.texts for sample in resumed)


def check_damage(root: Path) -> None:
    """A file whose bytes changed is set aside with a warning, and its texts are written again."""
    whole = write(root)
    victim = min((root / "_written").glob("texts-*"))
    victim.write_bytes(victim.read_bytes().replace(b'"text": "', b'"text": "bad'))
    with pytest.warns(StoreWarning, match="is damaged"):
        assert write(root) == whole
    assert victim.with_name(f"_{victim.name}.damaged").exists()
    assert write(root) == whole


def test_damage(counted: Counted, tmp_path: Path) -> None:
    """Catches a damaged file that is read as if it were whole."""
    check_damage(tmp_path)
    assert [len(ids) for ids in counted.asked] == [2] * 4


@pytest.mark.usefixtures("counted")
def test_twin_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a check blind to files that are read without their checksum."""
    monkeypatch.setattr(
        artifacts,
        "read_file",
        lambda path: [json.loads(line) for line in path.read_bytes().splitlines()],
    )
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        check_damage(tmp_path)


def check_written_once(llama: LM, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two that want the same texts at once, one writes; both get the same."""
    asked: list[int] = []

    def slow(_lm: LM, samples: Sequence[Sample], _style: str) -> list[str]:
        asked.append(len(samples))
        time.sleep(0.2)
        return [f"text number {len(asked)}" for _ in samples]

    monkeypatch.setattr(surrogate_queries, "surrogates", slow)
    got: list[tuple[Sample, ...]] = []
    files = locate("tiny-llama")
    threads = [
        threading.Thread(
            target=lambda: got.append(
                surrogate_store.with_surrogates(files, lambda: llama, SAMPLES, ["need"], root)
            )
        )
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert asked == [len(SAMPLES)]
    assert got[0] == got[1]


def test_written_once(llama: LM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches two threads that write the same texts."""
    check_written_once(llama, tmp_path, monkeypatch)


def test_twin_written_once(llama: LM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a check blind to a lock that does not lock."""
    monkeypatch.setattr(artifacts, "exclusive", lambda *_given: contextlib.nullcontext())
    with pytest.raises(AssertionError):
        check_written_once(llama, tmp_path, monkeypatch)

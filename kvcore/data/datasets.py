"""Datasets by name: what each can give, how a row of each becomes a sample, and the loader of all.

Each function of a row turns it into a sample, or into the reason why there is none. Texts are
stripped of surrounding white space and otherwise left as they are; passages are not cut unless it
is said, and one that is too long for a model is refused, and counted, by the engine.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from kvcore.data.all_passages import by_passage
from kvcore.data.docstrings.load import load_docstrings
from kvcore.data.files import ENDINGS, is_path, load_file
from kvcore.data.hub import HubDataset, HubRow, corpus_from, local_files, sample_or_reason
from kvcore.data.sample import Corpus, Sample
from kvcore.data.service_manuals import load as service_manuals
from kvcore.errors import unknown
from kvcore.io import digest

WORDS = (50, 300)  # of an MS MARCO passage, white-space separated, as in the published study
NO_ANSWER = "No Answer Present."
SUMMARIZE = "Summarize the article."
PAGE_WORDS = 1500  # of a Natural Questions page: some 2,000 tokens, as the longest padded passage


def first_nonblank(texts: Iterable[str]) -> str:
    """Return the first text that is not blank, stripped, or the empty one."""
    return next((text for text in map(str.strip, texts) if text), "")


def one_a_line(texts: Iterable[str]) -> str:
    """Join the texts that are not blank, stripped, by line breaks."""
    return "\n".join(filter(None, map(str.strip, texts)))


def ms_marco(row: HubRow) -> Sample | str:
    """Ask the selected passage of an MS MARCO query for its first answer.

    Passages of 50 to 300 words, as in the published study. Card: microsoft/ms_marco, v1.1.
    """
    marks, texts = row["passages"]["is_selected"], row["passages"]["passage_text"]
    answer = first_nonblank(row["answers"])
    if answer == NO_ANSWER:
        return "no answer present"
    if 1 not in marks[: len(texts)]:
        return "no selected passage"
    passage = texts[marks.index(1)]
    sample = sample_or_reason(row["query"], passage, answer, row["query_id"])
    if isinstance(sample, Sample) and not WORDS[0] <= len(passage.split()) <= WORDS[1]:
        return f"passage not {WORDS[0]} to {WORDS[1]} words"
    return sample


def ms_marco_others(row: HubRow) -> tuple[str, ...]:
    """Return the passages of the query that nobody selected, each once, of any length."""
    marks, texts = row["passages"]["is_selected"], row["passages"]["passage_text"]
    marked = [(mark, text.strip()) for mark, text in zip(marks, texts, strict=False)]
    selected = {text for mark, text in marked if mark == 1}
    unselected = dict.fromkeys(text for mark, text in marked if mark == 0 and text)
    return tuple(text for text in unselected if text not in selected)


def ms_marco_relevant(row: HubRow) -> tuple[str, ...]:
    """Return the passages that were selected for the query beside the first, each once."""
    marks, texts = row["passages"]["is_selected"], row["passages"]["passage_text"]
    selected = dict.fromkeys(
        text.strip() for mark, text in zip(marks, texts, strict=False) if mark == 1 and text.strip()
    )
    return tuple(selected)[1:]


def squad_v2(row: HubRow) -> Sample | str:
    """Ask a Wikipedia paragraph a question that it answers; the first of its answers is scored.

    Questions without an answer are dropped; intervals resample paragraphs, each of which is asked
    several questions. Card: rajpurkar/squad_v2.
    """
    answers = row["answers"]["text"]
    if not answers:
        return "unanswerable question"
    question, paragraph = row["question"], row["context"]
    cluster = digest(paragraph)[:16]
    return sample_or_reason(question, paragraph, first_nonblank(answers), row["id"], cluster)


def hotpotqa(row: HubRow) -> Sample | str:
    """Ask ten paragraphs, two of which are needed, for the short answer or yes or no.

    The paragraphs of the distractor setting, in their order, one a line and without their titles
    (some 900 words). Card: hotpotqa/hotpot_qa, distractor.
    """
    passage = one_a_line("".join(sentences) for sentences in row["context"]["sentences"])
    return sample_or_reason(row["question"], passage, row["answer"], row["id"])


def pubmedqa(row: HubRow) -> Sample | str:
    """Ask an abstract without its conclusion a research question; the conclusion is scored.

    The conclusion (long_answer) rather than yes, no or maybe (final_decision): an answer of one
    token has no score once its first token is left out. The abstract's sections stand one a line.
    Card: qiaojin/PubMedQA, pqa_labeled.
    """
    passage = one_a_line(row["context"]["contexts"])
    return sample_or_reason(row["question"], passage, row["long_answer"], row["pubid"])


def cnn_dailymail(row: HubRow) -> Sample | str:
    """Give a news article and one fixed instruction; the first highlight is scored.

    The query is the same for every sample ("Summarize the article."), so that the oracle prefix is
    an instruction, not a question; of the highlights, one a line, only the first sentence is the
    answer. Articles are not cut (some 650 words). Card: abisee/cnn_dailymail, 3.0.0.
    """
    highlight = first_nonblank(row["highlights"].splitlines())
    return sample_or_reason(SUMMARIZE, row["article"], highlight, row["id"])


def narrativeqa(row: HubRow) -> Sample | str:
    """Ask the summary of a book or film a question; the first of its two answers is scored.

    The summary (some 650 words), not the whole story (some 60,000), which most models cannot read.
    Rows have no identity of their own: it is made of the story's and the question.
    Card: deepmind/narrativeqa.
    """
    story, question = row["document"], row["question"]["text"]
    answer = first_nonblank(answer["text"] for answer in row["answers"])
    id = f"{story['id']}-{digest(question)[:8]}"
    return sample_or_reason(question, story["summary"]["text"], answer, id, story["id"])


def natural_questions(row: HubRow) -> Sample | str:
    """Ask the start of a Wikipedia page a search query; the first short answer is scored.

    The visible tokens of the page, joined by blanks and cut after 1,500 of them; a question whose
    answer comes later is dropped. Of several annotators the first with a short answer counts.
    Card: google-research-datasets/natural_questions, dev.
    """
    spans = (
        span
        for answers in row["annotations"]["short_answers"]
        for span in zip(answers["end_token"], answers["text"], strict=False)
    )
    end, answer = next(spans, (None, None))
    if answer is None:
        return "no short answer"
    tokens = row["document"]["tokens"]
    marked = list(zip(tokens["is_html"], tokens["token"], strict=False))
    if sum(not markup for markup, _ in marked[:end]) > PAGE_WORDS:
        return f"answer after the first {PAGE_WORDS} words"
    page = " ".join([text for markup, text in marked if not markup][:PAGE_WORDS])
    question, title = row["question"]["text"], row["document"]["title"]
    return sample_or_reason(question, page, answer, row["id"], title)


_HUB_DATASETS = (
    HubDataset(
        "ms_marco",
        "microsoft/ms_marco",
        "a47ee7aae8d7d466ba15f9f0bfac3b3681087b3a",
        ("v1.1/validation-00000-of-00001.parquet",),
        {
            "answers": ["text"],
            "passages": {"is_selected": ["integer"], "passage_text": ["text"]},
            "query": "text",
            "query_id": "integer",
        },
        ms_marco,
        "query",
        "MS MARCO v1.1 validation: the selected passage of each query, first answer",
        others_of=ms_marco_others,
        relevant_of=ms_marco_relevant,
    ),
    HubDataset(
        "squad_v2",
        "rajpurkar/squad_v2",
        "3ffb306f725f7d2ce8394bc1873b24868140c412",
        ("squad_v2/validation-00000-of-00001.parquet",),
        {"id": "text", "context": "text", "question": "text", "answers": {"text": ["text"]}},
        squad_v2,
        "paragraph",
        "SQuAD v2 validation: answerable questions, first answer",
        past_queries=True,
    ),
    HubDataset(
        "hotpotqa",
        "hotpotqa/hotpot_qa",
        "1908d6afbbead072334abe2965f91bd2709910ab",
        ("distractor/validation-00000-of-00001.parquet",),
        {"id": "text", "question": "text", "answer": "text", "context": {"sentences": [["text"]]}},
        hotpotqa,
        "query",
        "HotpotQA distractor validation: all ten paragraphs of each question",
    ),
    HubDataset(
        "pubmedqa",
        "qiaojin/PubMedQA",
        "9001f2853fb87cab8d220904e0de81ac6973b318",
        ("pqa_labeled/train-00000-of-00001.parquet",),
        {
            "pubid": "integer",
            "question": "text",
            "context": {"contexts": ["text"]},
            "long_answer": "text",
        },
        pubmedqa,
        "query",
        "PubMedQA, expert-labelled: abstracts, their conclusion as the answer",
    ),
    HubDataset(
        "cnn_dailymail",
        "abisee/cnn_dailymail",
        "96df5e686bee6baa90b8bee7c28b81fa3fa6223d",
        ("3.0.0/validation-00000-of-00001.parquet",),
        {"id": "text", "article": "text", "highlights": "text"},
        cnn_dailymail,
        "article",
        "CNN/DailyMail 3.0.0 validation: articles, first highlight",
    ),
    HubDataset(
        "narrativeqa",
        "deepmind/narrativeqa",
        "2e643e7363944af1c33a652d1c87320d0871c4e4",
        tuple(f"data/validation-{i:05}-of-00003.parquet" for i in range(3)),
        {
            "document": {"id": "text", "summary": {"text": "text"}},
            "question": {"text": "text"},
            "answers": [{"text": "text"}],
        },
        narrativeqa,
        "story",
        "NarrativeQA validation: summaries, first answer",
        within_columns=True,
        past_queries=True,
    ),
    # The dataset itself, not one of its short derivatives: the finding is about long documents.
    # One shard of seven (half a gigabyte, some 1,100 questions) is enough.
    HubDataset(
        "natural_questions",
        "google-research-datasets/natural_questions",
        "e8103d566bef4154c2c12b17c6095ec5275840cc",
        ("dev/validation-00000-of-00007.parquet",),
        {
            "id": "text",
            "question": {"text": "text"},
            "document": {"title": "text", "tokens": {"is_html": ["bool"], "token": ["text"]}},
            "annotations": {"short_answers": [{"end_token": ["integer"], "text": ["text"]}]},
        },
        natural_questions,
        "page",
        f"Natural Questions, first shard of dev: pages up to {PAGE_WORDS} words, short answer",
        within_columns=True,
    ),
)
HUB: Mapping[str, HubDataset] = {data.name: data for data in _HUB_DATASETS}


# --- by name -----------------------------------------------------------------------------------


PASSAGES = "ms_marco_passages"
"""As Gemma 3 4B was studied: all passages of 300 queries, relevant or not."""
SERVICE_MANUALS = service_manuals.NAME
"""What the manuals in botocore say of web services."""
DATASETS: Mapping[str, str] = {
    "docstrings": "docstrings of installed packages: no network needed (default)",
    SERVICE_MANUALS: "operations of web services, from the manuals in botocore: no network needed",
    **{name: f"{data.note}; from the hub, {data.repository}" for name, data in HUB.items()},
    PASSAGES: "MS MARCO v1.1 validation: every passage of a query, chosen and resampled by query",
}
"""What each dataset is and where it comes from, in one line."""


def load_corpus(name_or_path: str) -> Corpus:
    """Load a corpus by name, or from a JSON Lines, JSON, CSV or Parquet file.

    Parameters
    ----------
    name_or_path : str
        A key of ``DATASETS``, or a path (see :func:`kvcore.data.files.load_file`).

    Raises
    ------
    KvError
        Unknown name (the message has the nearest one) or a bad file, in one line.
    MissingResource
        Where the data is not on this machine; names the command that fetches it.
    """
    if name_or_path == "docstrings":
        return load_docstrings()
    if name_or_path == SERVICE_MANUALS:
        return service_manuals.load_service_manuals()
    if name_or_path in HUB:
        return corpus_from(HUB[name_or_path], local_files(HUB[name_or_path]))
    if name_or_path == PASSAGES:
        return by_passage(load_corpus("ms_marco"), PASSAGES)
    if is_path(name_or_path):
        return load_file(name_or_path)
    raise unknown("dataset", name_or_path, (*DATASETS, f"a path to a {ENDINGS} file"))

"""Solutions in words of a pair's two problems."""

from __future__ import annotations

from kvcore.data.context_pairs.equations import Step, evaluate, spelled
from kvcore.data.context_pairs.pair import Pair, WrittenProblem, numbers_in, sentences_of

VERBS = {
    "+": "we add {0} and {1}",
    "-": "we take {1} away from {0}",
    "*": "we multiply {0} by {1}",
    "/": "we divide {0} by {1}",
}


def worked_solutions(pair: Pair) -> tuple[str, str]:
    """Return a solution in words of each of a pair's two problems.

    Each is a few sentences, the last of which is "The answer is N.". With an equation: the
    problem's sentences with numbers, the equation, and each operation with its exact result.
    Without one: the question and the sentence of the text that holds the answer.
    """
    original, changed = pair.problems
    return _solution(original), _solution(changed)


def _solution(problem: WrittenProblem) -> str:
    if not problem.equation:
        return _quotation(problem)
    steps = evaluate(problem.equation).steps
    starts = ("First", *["Then"] * (len(steps) - 2), "Finally") if len(steps) > 1 else ("Here",)
    known = [s for s in sentences_of(problem.text) if numbers_in(s) and not s.endswith("?")]
    return " ".join(
        [
            *(["This is what we know.", *known] if known else []),
            f"We can write it as {problem.equation}.",
            *(f"{start} {_in_words(step)}" for start, step in zip(starts, steps, strict=False)),
            f"The answer is {problem.answer}.",
        ]
    )


def _in_words(step: Step) -> str:
    left, right = spelled(step.left), spelled(step.right)
    verb = VERBS[step.operator].format(left, right)
    return f"{verb}: {left} {step.operator} {right} = {spelled(step.value)}."


def _quotation(problem: WrittenProblem) -> str:
    *body, question = problem.text.strip().split("\n")
    answer = problem.answer.casefold()
    holding = [s for s in sentences_of(" ".join(body)) if s and answer in s.casefold()]
    quote = [f"The text says: {sentence}" for sentence in holding[:1]]
    return " ".join([f"The question is: {question}", *quote, f"The answer is {problem.answer}."])

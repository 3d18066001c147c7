"""``kvclaims`` and ``python -m claims``: look at claims, list and explain them, measure, view."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from kvcore.errors import KvError, MissingResource

BAD_INPUT, LACKING = 4, 1


class _Parser(argparse.ArgumentParser):
    """Says what is wrong with the command line in one line, with pytest's exit code for it."""

    def error(self, message: str) -> None:  # type: ignore[override]
        print(f"{self.prog}: {message}; `{self.prog} --help` lists what is allowed.",
              file=sys.stderr)  # fmt: skip
        raise SystemExit(BAD_INPUT)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    from claims.harness import commands

    main = _Parser(
        prog="kvclaims",
        description="Every finding about primed KV caches as a test with a verdict.",
        epilog="Options of look and measure are those of `pytest claims` (group kvclaims), also "
        "without kv-: `kvclaims measure --models gemma3-270m --limit 100`. "
        "`kvclaims measure --help` lists them.",
    )
    actions = main.add_subparsers(dest="action", required=True, metavar="COMMAND")
    look = actions.add_parser(
        "look", help="judge the shipped rows, without a model, and open the report", add_help=False
    )
    look.set_defaults(run=commands.look)
    measure = actions.add_parser(
        "measure", help="measure what the store lacks, judge, write a report", add_help=False
    )
    measure.set_defaults(run=commands.measure)
    listing = actions.add_parser("list", help="list what there is")
    listing.add_argument("what", choices=tuple(commands.LISTINGS))
    listing.set_defaults(run=commands.show_list)
    explain = actions.add_parser("explain", help="explain a claim or a condition")
    explain.add_argument("name", help="a claim's name, or a condition, e.g. values_only(oracle)")
    explain.add_argument("--model", help="explain a condition on one sample of docstrings, by this")
    explain.set_defaults(run=commands.explain)
    view = actions.add_parser("view", help="open the latest report, or its page of samples")
    view.add_argument("page", nargs="?", choices=tuple(commands.PAGES), default="report")
    view.add_argument("--no-open", action="store_true", help="say where it lies, open nothing")
    view.set_defaults(run=commands.view)
    return main


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return its exit code: pytest's, 4 for bad input, 1 where something lacks."""
    try:
        from claims.harness import commands
    except ModuleNotFoundError as absent:  # the wheel without its extra is the library alone
        print(f"kvclaims: {absent.name} is missing: run pip install 'kvclaims[claims]'",
              file=sys.stderr)  # fmt: skip
        return LACKING
    given, rest = parser().parse_known_args(arguments)
    if rest and given.run not in commands.TAKE_OPTIONS_OF_PYTEST:
        parser().error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        return int(given.run(given, rest))
    except KvError as error:
        print(f"kvclaims: {error}", file=sys.stderr)
        return BAD_INPUT
    except MissingResource as missing:
        print(f"kvclaims: {missing}", file=sys.stderr)
        return LACKING
    except BrokenPipeError:  # `kvclaims list claims | head`
        sys.stderr.close()
        return 0


if __name__ == "__main__":
    sys.exit(main())

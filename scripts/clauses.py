"""Write docs/reference/check.md, which follows from the platforms' terms: every clause that `servekit check` tries."""

from __future__ import annotations

from pathlib import Path

from servekit.launch.platforms import installed
from servekit.terms import Clause, Terms

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "check.md"
BUILT_IN = {"sagemaker": "SageMaker", "modelarts": "ModelArts", "modzy": "Modzy"}
HEAD = """\
<!-- Made by scripts/clauses.py from servekit/platforms/*/terms.py. Do not edit. -->

# The clauses of `servekit check`

How to use it: [check a container](../how-to/check.md). A clause's number is for ever.

- **must**: the platform breaks, or loses requests, where it is not kept. `servekit check` ends with 1.
- **should**: the platform says so itself, and something works worse.
- **may**: it is wiser.

What a person reads as `contract` is what the vendor demands, in our words, with the page that says it.

## What it says, and how it ends

| exit code | when |
|---|---|
| 0 | no clause that must be kept is broken (with `--strict`: each of them was checked, too) |
| 1 | one is broken |
| 2 | a wrong option, or nothing that could be started |
| 3 | the container never became ready; its last lines are shown |
| 130, 143 | Ctrl-C or SIGTERM: what was found until then is told, and what was not tried |

`--json` prints one object to standard output, and the progress to standard error:

| key | what |
|---|---|
| `platform` | whose contract |
| `ok` | no clause that must be kept is broken, and nobody interrupted |
| `interrupted` | by Ctrl-C or SIGTERM |
| `error` | why nothing could be tried (exit code 2), or null |
| `log` | the last lines of a container that never became ready |
| `clauses[]` | in the order of this page, each with the keys below |
| `id`, `level`, `title`, `says`, `page`, `fix` | of the clause, as below |
| `result` | `kept`, `broken` or `not checked` |
| `sent`, `got`, `expected` | in words |
| `reason` | why it was not checked |
| `seconds` | how long it took |

`--junit FILE` writes the same as JUnit XML: a test case for each clause, a failure for each **must** that is broken,
`skipped` for what was not checked. Others that are broken are no failures, and are told in `system-out`.
"""


def page() -> str:
    """docs/reference/check.md, whole."""
    platforms = installed()
    parts = [HEAD]
    for name, title in BUILT_IN.items():
        terms = platforms[name].terms
        if terms is not None:
            parts += [f"\n## {title}\n", *_table(terms())]
    return "\n".join(parts) + "\n"


def _table(terms: Terms) -> list[str]:
    return [
        "| id | level | what is so | the contract | to mend it |",
        "|---|---|---|---|---|",
        *map(_row, terms.clauses),
    ]


def _row(clause: Clause) -> str:
    cells = (clause.id, str(clause.level), clause.title, f"{clause.says} [page]({clause.page})", clause.fix)
    return f"| {' | '.join(_cell(cell) for cell in cells)} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def main() -> None:
    PAGE.write_text(page())


if __name__ == "__main__":
    main()

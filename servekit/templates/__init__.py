"""The files of a new project, from the templates beside this module.

Nothing is read from the model, copied or written here; that is the business of `servekit.cli.init`.
"""

from __future__ import annotations

import builtins
import json
import keyword
from collections.abc import Mapping
from importlib.resources import files
from string import Template
from typing import Any

from servekit import __version__
from servekit.signature import Signature, Spec, Tensor

# Names that the generated modules import.
TAKEN = frozenset(["Any", "Batching", "Json", "NDArray", "OnnxPredictor", "Path", "Predictor", "Session", "Tensor"])
# ruff's and black's own.
LINE_LENGTH = 88
PLAIN_SUMMARY = "Four numbers in, a score out."
ONNX_SUMMARY = "An ONNX model, served as SageMaker, ModelArts and Modzy each demand."
MODEL_ROW = "| `model/` | the model, and its external data if it has any |\n"


def plain(name: str) -> dict[str, str]:
    """Every file of a project with a predictor to be filled, by relative path."""
    row = {"features": [1.0, 2.0, 3.0, 4.0]}
    return {
        "predictor.py": _filled("predictor.py", class_name=class_name(name)),
        **_common(
            name,
            summary=PLAIN_SUMMARY,
            expected='EXPECTED = {"score": 2.5}',
            condition="result == EXPECTED",
            requirements="numpy>=2.0\n",
            model_row="",
        ),
        **_sample(row, {"features": "features.json"}),
    }


def around_onnx(
    name: str,
    signature: Signature,
    row: Mapping[str, Any],
    input_files: Mapping[str, str],
    *,
    max_size: int,
    fixed_rows: int | None,
    whole: frozenset[str],
) -> dict[str, str]:
    """Every file of a project around an ONNX model, but for the model, by relative path.

    row: a request by input name, as JSON has it. input_files: the names of Modzy's files, by input. The rest: what
    `servekit.backends.onnx.OnnxPredictor` has under these names.
    """
    special = ""
    if fixed_rows is not None:
        special += (
            "    # The graph takes so many rows and no other number; fewer are filled up.\n"
            f"    fixed_rows = {fixed_rows}\n"
        )
    if whole:
        names = [_indented(f"{literal(output)},", 12) for output in signature.outputs if output in whole]
        special += (
            "    # Outputs that are not one value for each row: the whole array is the result.\n"
            "    whole = frozenset(\n        [\n" + "\n".join(names) + "\n        ]\n    )\n"
        )
    outputs = "\n".join(_indented(f"{literal(output)},", 4) for output in signature.outputs)
    kinds = {type(spec).__name__ for spec in (*signature.inputs.values(), *signature.outputs.values())}
    return {
        "predictor.py": _filled(
            "predictor_onnx.py",
            class_name=class_name(name),
            specs=", ".join(sorted(kinds)),
            inputs="\n".join(_entry(*item) for item in signature.inputs.items()),
            outputs="\n".join(_entry(*item) for item in signature.outputs.items()),
            max_size=str(max_size),
            special=special,
        ),
        **_common(
            name,
            summary=ONNX_SUMMARY,
            expected=f"OUTPUTS = {{\n{outputs}\n}}",
            condition="set(result) == OUTPUTS",
            requirements="",
            model_row=MODEL_ROW,
        ),
        **_sample(row, input_files),
    }


def class_name(name: str) -> str:
    """`my-model_2` as MyModel2; a name that would hide another gets a `Model` behind it."""
    found = "".join(part[:1].upper() + part[1:] for part in name.replace("-", "_").split("_"))
    hides = found in TAKEN or keyword.iskeyword(found) or hasattr(builtins, found)
    return f"{found}Model" if hides else found


def literal(text: str) -> str:
    """Python source of a str, in double quotes unless it holds some itself."""
    quoted = repr("'" + text)
    return '"' + quoted[2:] if quoted.startswith('"') else repr(text)


def _common(
    name: str, *, summary: str, expected: str, condition: str, requirements: str, model_row: str
) -> dict[str, str]:
    return {
        "test_predictor.py": _filled("test_predictor.py", expected=expected, condition=condition),
        "README.md": _filled("README.md", name=name, summary=summary, model_row=model_row),
        "pyproject.toml": _filled("pyproject.toml", name=name, summary=summary),
        "requirements.txt": _filled("requirements.txt", requirements=requirements, version=__version__),
        "requirements-dev.txt": _filled("requirements-dev.txt", version=__version__),
        ".gitignore": _filled("gitignore"),
        ".servekitignore": _filled("servekitignore"),
    }


def _sample(row: Mapping[str, Any], input_files: Mapping[str, str]) -> dict[str, str]:
    """The row as a request, a bare value when there is one input, and as Modzy's files."""
    document = {"instances": [next(iter(row.values())) if len(row) == 1 else dict(row)]}
    return {
        "sample.json": json.dumps(document, ensure_ascii=False) + "\n",
        **{f"sample/{input_files[name]}": json.dumps(value, ensure_ascii=False) + "\n" for name, value in row.items()},
    }


def _filled(template: str, **values: str) -> str:
    return Template((files(__name__) / f"{template}.in").read_text("utf-8")).substitute(values)


def _entry(name: str, spec: Spec) -> str:
    """A line of a dict of specifications, broken as formatters do when it is long."""
    arguments = f'"{spec.dtype}", {spec.shape!r}' if isinstance(spec, Tensor) else ""
    line = _indented(f"{literal(name)}: {type(spec).__name__}({arguments}),", 8)
    if len(line) <= LINE_LENGTH or not arguments:
        return line
    return "\n".join([line.partition(": Tensor(")[0] + ": Tensor(", _indented(arguments, 12), _indented("),", 8)])


def _indented(text: str, spaces: int) -> str:
    return " " * spaces + text

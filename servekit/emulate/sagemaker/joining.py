"""DataProcessing: what of a record the container sees, and what is kept of the record and its result.

Source: developer guide, "Associate Prediction Results with Input Records"; API reference, DataProcessing.
"""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from typing import Any

from servekit.emulate.sagemaker.jsonpath import JsonPath, NotThere

CSV, JSON, JSON_LINES = "text/csv", "application/json", "application/jsonlines"
KINDS = (CSV, JSON, JSON_LINES)
INPUT, OUTPUT = "SageMakerInput", "SageMakerOutput"
# MaxPayload limits a record; Python's own limit of a field is 128 KiB.
csv.field_size_limit(2**31 - 1)


class BadRecord(Exception):
    """The message says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Processing:
    """kind: the media type of input and output."""

    kind: str
    input_filter: JsonPath
    output_filter: JsonPath
    joins: bool

    @property
    def is_on(self) -> bool:
        return self.joins or not (self.input_filter.is_all and self.output_filter.is_all)

    def sent(self, record: bytes) -> bytes:
        """What the container gets of a record. Raises BadRecord."""
        return record if self.input_filter.is_all else self._dump(self._take(self.input_filter, self._load(record)))

    def kept(self, record: bytes, result: bytes) -> bytes:
        """What the output file gets. Raises BadRecord."""
        made = self._load(result)
        if self.joins:
            made = self._joined(self._load(record), made)
        return self._dump(self._take(self.output_filter, made))

    def results(self, answer: bytes, count: int) -> list[bytes]:
        """An answer to so many records, one by one. Raises BadRecord."""
        if count == 1 and self.kind == JSON:
            return [answer]
        lines = answer.split(b"\n")
        if lines[-1] == b"":
            lines.pop()
        if len(lines) != count:
            raise BadRecord(
                f"the container answered {count} records with {len(lines)} lines: to filter or join, it must give one "
                "line for each record"
            )
        return [line.removesuffix(b"\r") for line in lines]

    # --- formats ---

    def _joined(self, record: Any, result: Any) -> Any:
        if self.kind == CSV:
            return [*record, *result]
        if isinstance(record, dict):
            return {**record, OUTPUT: result}
        return {INPUT: record, OUTPUT: result}

    def _take(self, path: JsonPath, document: Any) -> Any:
        try:
            return path.of(document)
        except NotThere as error:
            raise BadRecord(str(error)) from error

    def _load(self, data: bytes) -> Any:
        try:
            text = data.decode()
            if self.kind != CSV:
                return json.loads(text)
            rows = list(csv.reader([text.rstrip("\r\n")], strict=True))
        except UnicodeDecodeError as error:
            raise BadRecord(f"expected UTF-8: {error.reason} at byte {error.start}") from error
        except (ValueError, RecursionError, csv.Error) as error:
            raise BadRecord(f"expected {self.kind}: {error}") from error
        return rows[0] if rows else []

    def _dump(self, value: Any) -> bytes:
        if self.kind != CSV:
            try:
                # Half of a character, which JSON can name and UTF-8 cannot, stays the escape that it came as.
                return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace")
            except RecursionError as error:
                raise BadRecord("it is too deep to be written") from error
        row = io.StringIO()
        csv.writer(row, lineterminator="").writerow(value if isinstance(value, list) else [value])
        return row.getvalue().encode()

"""Media types <-> arrays; each codec has its own file, and `media.py` reads the two headers that choose one.

A codec never trusts a length, a shape or a name in the body, and its errors say which field, what came and what was
expected.
"""

from servekit.codecs.decode import decode, decode_file, decode_json_item
from servekit.codecs.encode import answer, encode, encode_output, negotiate, result_object
from servekit.codecs.nouns import ITEM, Column, Decoded, Form, Limits

__all__ = [
    "ITEM",
    "Column",
    "Decoded",
    "Form",
    "Limits",
    "answer",
    "decode",
    "decode_file",
    "decode_json_item",
    "encode",
    "encode_output",
    "negotiate",
    "result_object",
]

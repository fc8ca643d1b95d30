"""How many values a JSON text holds, told before it is parsed: three bytes of it may become a hundred in memory."""

from __future__ import annotations

import itertools
import re

#: Up to the next separator that does not stand in a string. A string that is open at the end takes all of it.
_TO_SEPARATOR = re.compile(rb'(?:[^,\[{"]|"(?:[^"\\]|\\.)*+(?:"|\\?\Z))*+[,\[{]', re.DOTALL)


def has_more_values(text: bytes, most: int) -> bool:
    """Whether there are more values than `most`. Of a text that is no JSON, whether there might be."""
    if text.count(b",") + text.count(b"[") + text.count(b"{") <= most:
        return False
    return next(itertools.islice(_TO_SEPARATOR.finditer(text), most, None), None) is not None

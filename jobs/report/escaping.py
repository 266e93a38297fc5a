"""Users' words, as each kind of file takes them: pictures, Markdown, LaTeX, CSV, a script element. HTML is jinja2's.

Their names of files are in safe_names.py; commands are quoted by shlex.
"""

import json
import re
import unicodedata

UNDRAWN = {"Cc", "Cs", "Zl", "Zp"}  # Unicode's categories of control characters, surrogates, line separators
DIRECTIONS = re.compile("[\u200e\u200f\u202a-\u202e\u2066-\u2069]")  # marks that turn the text around them


def drawn(text: str) -> str:
    """The text on one line, of characters that can be drawn: everything else is a blank.

    >>> drawn("a red\\n fox\\x00asleep\\u2028")
    'a red fox asleep'
    """
    shown = "".join(" " if unicodedata.category(c) in UNDRAWN else c for c in DIRECTIONS.sub("", text))
    return " ".join(shown.split())


def plotted(text: str) -> str:
    """`drawn`, as matplotlib takes it: a dollar does not begin a formula."""
    return drawn(text).replace("$", r"\$")


def markdown(text: str) -> str:
    """Text without markup, on one line: it also stands in a table's cell.

    >>> print(markdown("a *fox* | <b>"))
    a \\*fox\\* \\| \\<b\\>
    """
    return "".join("\\" + c if c in "\\`*_{}[]<>#|" else c for c in drawn(text))


def latex(text: str) -> str:
    """Text as LaTeX takes it, on one line.

    >>> print(latex("50 % of $5_a"))
    50 \\% of \\$5\\_a
    """
    special = {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        **{c: "\\" + c for c in "&%$#_{}"},
    }
    return "".join(special.get(c, c) for c in drawn(text))


def csv_cell(text: str) -> str:
    """Text that a spreadsheet does not take for a formula.

    >>> csv_cell("=1+1"), csv_cell("a red fox")
    ("'=1+1", 'a red fox')
    """
    return "'" + text if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def script(content: dict | list) -> str:
    """JSON that can stand inside a script element, whatever users named their sets."""
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")

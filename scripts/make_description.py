"""Write DESCRIPTION.md, what a package index shows: the README without links into the repository, which die there.

python scripts/make_description.py
"""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "DESCRIPTION.md"


def page() -> str:
    text = (ROOT / "README.md").read_text()
    text = re.sub(r"<img [^>]*>\n\n\*.*?\*\n\n", "", text, flags=re.S)  # a figure and what it shows
    text = re.sub(r"\[([^]]*)\]\((?!https?:)([^)#]+)[^)]*\)", r"\1 (`\2`)", text)
    return f"<!-- made by scripts/make_description.py from README.md: do not edit by hand -->\n\n{text}"


if __name__ == "__main__":
    PAGE.write_text(page())

"""The API reference's reading of docstrings: Sphinx roles become links, formulas MathML; mkdocs.yml names this file.

Docstrings are written so that ``help()`` shows them as they stand. A role that leads nowhere stops the build.
"""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Any

from griffe import Alias, AliasResolutionError, Extension, Function, Module, Object
from latex2mathml.converter import convert

_ROLE = re.compile(r":(?:func|class|meth|attr|data|mod):`(~?)([\w.]+)`")
_SHARED_LINE = re.compile(r"^( +)((?:\w+,\s+)+\w+):( .*|\n\1 +.*)", re.M)
_EXAMPLE = re.compile(r"^Example:$", re.M)  # griffe knows the plural as code
_FORMULA = re.compile(r"^([ \t]*)\.\. math::(.*(?:\n\1[ \t]+\S.*)*)", re.M)


class DocstringMarkup(Extension):
    """Rewrites every docstring of a package once it is loaded."""

    def on_package(self, *, pkg: Module, **kwargs: Any) -> None:
        _rewrite(pkg)


def _rewrite(owner: Object) -> None:
    if owner.docstring:
        text = _FORMULA.sub(lambda match: match[1] + _mathml(match[2]), owner.docstring.value)
        text = _EXAMPLE.sub("Examples:", text)
        if isinstance(owner, Function):
            text = _SHARED_LINE.sub(lambda match: _one_line_each(owner, match), text)
        owner.docstring.value = _ROLE.sub(lambda match: _link(owner, *match.groups()), text)
    for member in owner.members.values():
        if not isinstance(member, Alias):
            _rewrite(member)


def _mathml(formula: str) -> str:
    return convert(" ".join(formula.split()), display="block")


def _one_line_each(function: Function, shared: re.Match[str]) -> str:
    """``a, b: text`` as one line for each, where a and b are the function's parameters."""
    indent, names, text = shared.groups()
    parameters = re.split(r",\s+", names)
    if not all(name in function.parameters for name in parameters):
        return shared[0]
    return "\n".join(f"{indent}{name}: {text.strip()}" for name in parameters)


def _link(owner: Object, short: str, name: str) -> str:
    text = f"`{name.rsplit('.')[-1] if short else name}`"
    target = _find(owner, name)
    if target is not None and not target.has_docstring:
        return text  # known, but not on the page
    return f"[{text}][{target.path if target else name}]"


def _find(owner: Object, name: str) -> Object | None:
    """What a name stands for, looked up from the docstring's owner outwards, as Python does."""
    scope: Object | None = owner
    while scope is not None:
        with suppress(KeyError, AliasResolutionError):
            found = scope.modules_collection[name] if name.startswith("nnunet_instance_trainers.") else scope[name]
            return found.final_target if isinstance(found, Alias) else found
        scope = scope.parent
    return None

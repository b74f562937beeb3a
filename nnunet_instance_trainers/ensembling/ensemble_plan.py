"""What an ensemble does: members with their ranges for each class, and what is done before and after them.

As a file, which ``fit-ensemble`` writes and ``ensemble --config`` applies::

    {
      "format": 1,
      "rescue": false,
      "vote": null,
      "gaps": false,
      "connectivity": 26,
      "classes": {
        "1": {
          "members": [{"name": "A", "low_ml": 0, "high_ml": 0.05}, {"name": "B", "low_ml": 0.05, "high_ml": null}],
          "min_volume_ml": 0,
          "hysteresis": null
        }
      },
      "fit": {}
    }

Keys of classes are those of nnU-Net's summaries, ``"1"`` for a label and ``"(1, 2)"`` for a region, or ``"*"`` alone
for all; a range without end has ``null``; ``"fit"`` may hold anything and is not looked at.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from math import inf, isfinite, isnan
from pathlib import Path
from typing import Any

from nnunet_instance_trainers.data.map_store import write_atomically
from nnunet_instance_trainers.data.text_files import read_json
from nnunet_instance_trainers.errors import UserError

__all__ = ["ALL", "EnsemblePlan", "Member", "check_ranges"]

ALL = "*"
"""In place of a class: the same for every class."""

_FORMAT = 1
_KEYS = {"format", "rescue", "vote", "gaps", "connectivity", "classes", "fit"}
_CLASS_KEYS = {"members", "min_volume_ml", "hysteresis"}
_MEMBER_KEYS = {"name", "low_ml", "high_ml"}


@dataclass(frozen=True)
class Member:
    """A model and the sizes of the objects that it contributes.

    Attributes:
        name: of the model.
        low_ml: smallest volume, inclusive.
        high_ml: exclusive.
    """

    name: str
    low_ml: float = 0.0
    high_ml: float = inf

    @property
    def range(self) -> tuple[float, float]:
        return self.low_ml, self.high_ml


@dataclass(frozen=True)
class EnsemblePlan:
    """What an ensemble does.

    Attributes:
        members: for each class or region, by nnU-Net's key for it, or by ``"*"`` for all. Their ranges do not overlap;
            a model may have several.
        rescue: whether objects that straddle an edge are kept.
        vote: how many folders of one model must agree; None for more than half of them.
        gaps: whether sizes may be left out.
        connectivity: 6, 18 or 26 neighbours that join voxels to objects; in 2D 6 stands for 4, the others for 8.
        min_volume_ml: for each class the volume below which objects of the result are removed; 0 where it is not named.
        hysteresis: for each class (low, high): objects are the components of p > low whose peak exceeds high, instead
            of the label image's. Label images where it is not named.
        fit: what the choice was based on; for readers.

    Raises:
        UserError: something in it is odd.
    """

    members: Mapping[str, Sequence[Member]]
    rescue: bool = False
    vote: int | None = None
    gaps: bool = False
    connectivity: int = 26
    min_volume_ml: Mapping[str, float] = field(default_factory=dict)
    hysteresis: Mapping[str, tuple[float, float] | None] = field(default_factory=dict)
    fit: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.members:
            raise UserError("an ensemble needs a class with members")
        if ALL in self.members and len(self.members) > 1:
            raise UserError(f"{ALL!r} stands for all classes, so there can be no other beside it")
        for key, members in self.members.items():
            check_ranges(members, gaps=self.gaps, where="the ensemble" if key == ALL else f"class {key}")
        for name in ("min_volume_ml", "hysteresis"):
            unknown = sorted(set(getattr(self, name)) - set(self.members))
            if unknown:
                raise UserError(f"{name} names class {unknown[0]!r}, which has no members: add them")
        for key, volume in self.min_volume_ml.items():
            if not (_is_number(volume) and 0 <= volume < inf):
                raise UserError(f"class {key}: min_volume_ml must be 0 or more, got {volume}")
        for key, pair in self.hysteresis.items():
            if pair is not None and not _is_hysteresis(pair):
                raise UserError(f"class {key}: hysteresis must be low and high with 0 < low <= high < 1, got {pair}")
        if self.vote is not None and (type(self.vote) is not int or self.vote < 1):
            raise UserError(f"vote must be a number of folders from 1 on, or null for the majority, got {self.vote}")
        if self.connectivity not in (6, 18, 26) or type(self.connectivity) is not int:
            raise UserError(f"connectivity must be 6, 18 or 26, got {self.connectivity}")
        for name in ("rescue", "gaps"):
            if type(getattr(self, name)) is not bool:
                raise UserError(f"{name} must be true or false, got {getattr(self, name)}")

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the models as they first occur; the earlier wins a voxel that two claim for different classes."""
        return tuple(dict.fromkeys(member.name for member in chain(*self.members.values())))

    def for_classes(self, keys: Iterable[str]) -> EnsemblePlan:
        """The plan with each class of a dataset by its own key.

        Raises:
            UserError: the classes are not those of the plan.
        """
        keys = list(keys)
        if ALL in self.members:
            return replace(
                self,
                **{
                    name: {key: getattr(self, name)[ALL] for key in keys} if getattr(self, name) else {}
                    for name in ("members", "min_volume_ml", "hysteresis")
                },
            )
        if set(keys) != set(self.members):
            raise UserError(
                f"the ensemble was made for classes {', '.join(self.members)}, but dataset.json has {', '.join(keys)}: "
                "give the right one with -djfile"
            )
        return self

    def to_json(self) -> dict[str, Any]:
        """The contents of the file."""
        return {
            "format": _FORMAT,
            "rescue": self.rescue,
            "vote": self.vote,
            "gaps": self.gaps,
            "connectivity": self.connectivity,
            "classes": {
                key: {
                    "members": [
                        {
                            "name": m.name,
                            "low_ml": float(m.low_ml),
                            "high_ml": float(m.high_ml) if isfinite(m.high_ml) else None,
                        }
                        for m in members
                    ],
                    "min_volume_ml": float(self.min_volume_ml.get(key, 0)),
                    "hysteresis": list(pair) if (pair := self.hysteresis.get(key)) is not None else None,
                }
                for key, members in self.members.items()
            },
            "fit": dict(self.fit),
        }

    @classmethod
    def from_json(cls, content: Any, where: str = "the ensemble") -> EnsemblePlan:
        """The plan that a file holds.

        Raises:
            UserError: anything in it is odd; the line begins with ``where``.
        """
        try:
            _known(content, _KEYS, "it")
            if content.get("format") != _FORMAT:
                raise UserError(f"its format is {content.get('format')!r}, not {_FORMAT}")
            classes = content.get("classes")
            if not isinstance(classes, dict):
                raise UserError("it has no classes")
            for key, entry in classes.items():
                _known(entry, _CLASS_KEYS, f"class {key}")
            return cls(
                members={key: _members(entry, key) for key, entry in classes.items()},
                rescue=content.get("rescue", False),
                vote=content.get("vote"),
                gaps=content.get("gaps", False),
                connectivity=content.get("connectivity", 26),
                min_volume_ml={key: entry.get("min_volume_ml", 0.0) for key, entry in classes.items()},
                hysteresis={
                    key: tuple(pair) if isinstance(pair, list) else pair
                    for key, entry in classes.items()
                    if (pair := entry.get("hysteresis")) is not None
                },
                fit=content.get("fit") if isinstance(content.get("fit"), dict) else {},
            )
        except UserError as error:
            raise UserError(f"{where}: {error}: correct it, or write it anew with fit-ensemble") from None

    @classmethod
    def read(cls, file: Path) -> EnsemblePlan:
        """The plan in a file.

        Raises:
            UserError: the file is missing, no JSON, or odd.
        """
        return cls.from_json(read_json(file, "give the file that fit-ensemble wrote"), str(file))

    def write(self, file: Path) -> None:
        text = json.dumps(self.to_json(), indent=2)
        with write_atomically(file) as temporary:
            temporary.write_text(text, encoding="utf-8")


def check_ranges(members: Sequence[Member], *, gaps: bool = False, where: str = "the ensemble") -> None:
    """Refuse members whose ranges are odd, overlap, or leave sizes out.

    Args:
        members: of one class, in any order.
        gaps: whether sizes may be left out.
        where: for the message.

    Raises:
        UserError: naming the range.
    """
    if not members:
        raise UserError(f"{where} has no members")
    for m in members:
        if not isinstance(m.name, str) or not m.name:
            raise UserError(f"{where}: the name of a member must be text, got {m.name!r}")
        if not all(map(_is_number, m.range)) or not 0 <= m.low_ml < m.high_ml or m.low_ml == inf:
            raise UserError(f"{where}: the range {_text(*m.range)} of member {m.name!r} must go from 0 or more upwards")
    allow = 'extend a range, or allow gaps with --gaps, in a file with "gaps": true'
    end, before = 0.0, ""
    for m in sorted(members, key=lambda member: member.low_ml):
        if m.low_ml < end:
            raise UserError(f"{where}: the ranges of {before!r} and {m.name!r} overlap from {m.low_ml:g} mL on")
        if m.low_ml > end and not gaps:
            raise UserError(f"{where}: no member has the sizes {_text(end, m.low_ml)}: {allow}")
        end, before = m.high_ml, m.name
    if end < inf and not gaps:
        raise UserError(f"{where}: no member has the sizes {_text(end, inf)}: {allow}")


def _members(entry: dict[str, Any], key: str) -> list[Member]:
    members = entry.get("members")
    if not isinstance(members, list):
        raise UserError(f"class {key} has no list of members")
    for member in members:
        _known(member, _MEMBER_KEYS, f"a member of class {key}")
    return [
        Member(m.get("name"), m.get("low_ml", 0.0), inf if m.get("high_ml") is None else m["high_ml"]) for m in members
    ]


def _known(content: Any, keys: set[str], where: str) -> None:
    if not isinstance(content, dict):
        raise UserError(f"{where} is not made of keys and values")
    unknown = sorted(set(content) - keys)
    if unknown:
        raise UserError(f"{where} has {unknown[0]!r}, which is none of {', '.join(sorted(keys))}")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and not isnan(value)


def _is_hysteresis(pair: Any) -> bool:
    if not isinstance(pair, (tuple, list)) or len(pair) != 2 or not all(map(_is_number, pair)):
        return False
    return 0 < pair[0] <= pair[1] < 1


def _text(low: float, high: float) -> str:
    return f"{low}-{'' if high == inf else high} mL"

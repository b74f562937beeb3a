"""What a check found: one line each, with the remedy."""

from __future__ import annotations

from dataclasses import dataclass

from nnunet_instance_trainers.errors import UserError

__all__ = ["OK", "PROBLEM", "WARNING", "Finding"]

OK, WARNING, PROBLEM = "ok", "warning", "problem"


@dataclass(frozen=True)
class Finding:
    """One line of a check.

    Attributes:
        level: ``"ok"``, ``"warning"`` (works, but look at it) or ``"problem"`` (something will stop).
        topic: what was looked at.
        text: what is so.
        remedy: what to do; empty where nothing needs to be done.
    """

    level: str
    topic: str
    text: str
    remedy: str = ""

    @classmethod
    def of_error(cls, topic: str, error: UserError) -> Finding:
        """A problem that a function of this package raised; its message ends with the remedy after a colon."""
        text, _, remedy = str(error).rpartition(": ")
        return cls(PROBLEM, topic, text, remedy)

    def __str__(self) -> str:
        line = f"{self.level:8} {self.topic}: {self.text}"
        return f"{line}: {self.remedy}" if self.remedy else line

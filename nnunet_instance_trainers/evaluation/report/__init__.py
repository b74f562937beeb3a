"""The report: evaluated models in one self-contained HTML file."""

from nnunet_instance_trainers.evaluation.report.page import choose_cases, report, write_report

__all__ = ["choose_cases", "report", "write_report"]

"""The report of a study: tables, figures, pictures, conclusion."""

from nnssl.evaluate.report.write import write_report

__all__ = ["write_report"]

"""The report: one page and its pictures, made from a study's record."""

from myosotis.report.aggregate import configurations, pareto_front, t_interval
from myosotis.report.table import summary_table
from myosotis.report.write import warm_up, write_report

__all__ = ["configurations", "pareto_front", "summary_table", "t_interval", "warm_up", "write_report"]

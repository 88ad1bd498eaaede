"""What a person reads: the page and the pictures of one run; tables and charts of many.

Pictures are in `reports.gallery` and `reports.charts`, which load jax's programs and matplotlib.
"""

from vae_jax.reports.collect import read_runs, setting_keys
from vae_jax.reports.page import write_report
from vae_jax.reports.statistics import make_table, remarks
from vae_jax.reports.tables import csv_runs, csv_table, differences, latex, markdown, means, text

__all__ = [
    "csv_runs",
    "csv_table",
    "differences",
    "latex",
    "make_table",
    "markdown",
    "means",
    "read_runs",
    "remarks",
    "setting_keys",
    "text",
    "write_report",
]

"""What a person reads: the page and the pictures of one run; tables and charts of many.

Formats of a table are in `reports.tables`, pictures in `reports.gallery` and `reports.charts`, which load matplotlib.
"""

from vae_jax.reports.collect import read_runs, setting_keys
from vae_jax.reports.page import write_report
from vae_jax.reports.statistics import make_table, remarks

__all__ = ["make_table", "read_runs", "remarks", "setting_keys", "write_report"]

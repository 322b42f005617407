"""A report of a run: computed by `collect_report`, drawn by `report_page`."""

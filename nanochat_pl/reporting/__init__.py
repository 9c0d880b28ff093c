"""The report of a run: its records read, said in words and tables, and written as one page."""

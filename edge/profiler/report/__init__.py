"""Profile documents: files, history, comparison, budget, tables and the HTML report."""

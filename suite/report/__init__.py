"""The report: run directories in, tables, figures and one page out.

Only drawing a function's landscape takes torch.
"""

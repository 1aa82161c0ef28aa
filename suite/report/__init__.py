"""The report: run directories in, tables, figures and one self-contained page out. Nothing here imports torch."""

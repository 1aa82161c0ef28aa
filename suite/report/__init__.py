"""The report: run directories in; tables, figures and pages out."""

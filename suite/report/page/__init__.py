"""Pages: links, the manifest of files, and figures for a paper."""

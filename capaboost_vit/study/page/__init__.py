"""The report of a study: one offline page, and its tables as Markdown, csv and LaTeX."""

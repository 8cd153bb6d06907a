"""What methods are compared on: the tasks of VTAB-1k and FGVC, and a user's own."""

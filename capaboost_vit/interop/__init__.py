"""Other libraries' formats, a client per file, each imported when it is needed."""

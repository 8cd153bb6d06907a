"""One method per file, flat arguments in, names of adapted modules out; `apply` is where a config meets a model."""

"""The one training loop, its configuration, optimisation and logs: it knows the core, no vision and no text."""

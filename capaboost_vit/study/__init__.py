"""Tasks x methods x seeds: which trials there are, who computes them, and what was chosen on val."""

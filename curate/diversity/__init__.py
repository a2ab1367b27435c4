"""Statistics of a corpus: how much its rows repeat each other, and themselves."""

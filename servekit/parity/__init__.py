"""The same samples through every platform's adapter: their answers must be equal, and so must their errors."""

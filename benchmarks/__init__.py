"""Benchmarks of servekit and its peers, side by side: `python -m benchmarks`."""

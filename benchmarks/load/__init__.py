"""Load generators: wrk for throughput, a paced one for latency under a fixed rate."""

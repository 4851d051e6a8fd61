"""Does a container keep a platform's contract? It is asked from outside, as the platform asks, whoever wrote it."""

"""How fast a server answers: under callers that wait for it, and under callers that do not."""

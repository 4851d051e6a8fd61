"""The runtime side of Amazon SageMaker: an endpoint in front of a container, and batch transform."""

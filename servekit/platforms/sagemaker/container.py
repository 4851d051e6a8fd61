"""What SageMaker demands of an image.

Source: AWS developer guide, "Custom Inference Code with Hosting Services" and "Run Real-time Predictions with an
Inference Pipeline"; AWS Marketplace guide, "Model package images".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from servekit.containers import Container, Product

CAPABILITY = "com.amazonaws.sagemaker.capabilities."


def container(_product: Product) -> Container:
    """The image runs as `docker run IMAGE serve`, as any user, with only /tmp to write to; its model may be inside."""
    from servekit.containers import Container  # no server needs it

    return Container(
        # With an ENTRYPOINT, the platform's `serve` would be an argument of that.
        command=("serve",),
        environment={"SERVEKIT_PLATFORM": "sagemaker"},
        # Pipelines and endpoints of several containers are refused without it; the port is SAGEMAKER_BIND_TO_PORT.
        # Not `multi-models`: that promises to load and unload models over /models, and servekit serves one model.
        # Not `bidirectional-streaming`: that promises WebSockets. No label about CUDA: nothing here needs a GPU.
        labels={f"{CAPABILITY}accept-bind-to-port": "true"},
    )

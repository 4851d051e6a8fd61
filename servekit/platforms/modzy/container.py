"""What Modzy demands of an image of the v1 (REST) specification.

Source: Modzy documentation, "Container image" and "Container specification (REST)"; Modzy's Python model template.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from servekit.containers import Container, Product

PORT = 8080


def container(product: Product) -> Container:
    """The image serves when it is run without arguments; weights and dependencies are inside, nobody is called."""
    # No server needs them.
    from servekit.containers import Container
    from servekit.platforms.modzy.manifest_out import manifest

    return Container(
        command=("servekit", "run"),
        # The template's image has the port as a variable too, which whoever runs it may set to another.
        environment={"SERVEKIT_PLATFORM": "modzy", "PSC_MODEL_PORT": str(PORT)},
        # The labels `ml.openmodel.*` are for the gRPC interface (v2), which servekit does not serve.
        ports=(PORT,),
        manifests={"model.yaml": manifest(product)},
    )

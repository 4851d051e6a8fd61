"""servekit: write one model predictor, ship it unchanged to every hosting platform.

The names here are the public interface. `import servekit` loads neither numpy nor a web framework.
"""

from servekit.errors import InvalidInput
from servekit.predictor import Batching, Context, Predictor
from servekit.signature import File, Image, Json, Tensor, Text

__version__ = "0.1.0"

__all__ = [
    "Batching",
    "Context",
    "File",
    "Image",
    "InvalidInput",
    "Json",
    "Predictor",
    "Tensor",
    "Text",
    "__version__",
]

"""The example on the vendor's page about registering an image, request and response."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

EXAMPLE_PATH = "swr.xxx.com/op_svc_modelarts_container2/pytorch_1_8:train-pytorch_1.8.0-cuda_10.2-py_3.7"
EXAMPLE_REQUEST = {"description": "", "resource_category": ["CPU"], "arch": "X86_64", "swr_path": EXAMPLE_PATH}
EXAMPLE_RESPONSE: Mapping[str, Any] = {
    "arch": "x86_64",
    "create_at": 1671708630448,
    "description": "",
    "dev_services": ["NOTEBOOK", "SSH"],
    "id": "708ca95d-c601-4dc7-86b9-670adfd5e818",
    "name": "pytorch_1_8",
    "namespace": "op_svc_modelarts_container2",
    "origin": "CUSTOMIZE",
    "resource_categories": ["CPU"],
    "service_type": "UNKNOWN",
    "size": 3376133259,
    "status": "ACTIVE",
    "swr_path": EXAMPLE_PATH,
    "tag": "train-pytorch_1.8.0-cuda_10.2-py_3.7",
    "type": "DEDICATED",
    "update_at": 1671708630448,
    "visibility": "PRIVATE",
    "workspace_id": "0",
}

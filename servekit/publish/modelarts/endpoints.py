"""Where ModelArts, IAM and SWR are, by region; and the options that say otherwise."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from servekit.errors import ConfigError
from servekit.publish.http import check_endpoint, is_loopback

Cloud = Literal["huawei", "otc"]

# A part of a host's name: nothing in it may lead elsewhere.
REGION = re.compile(r"[a-z]{2,4}(?:-[a-z0-9]{1,20}){1,4}")
PROJECT_ID = re.compile(r"[0-9A-Za-z_-]{1,64}")
# Open Telekom Cloud, by region: the domain, and the names that are not the service's own.
OTC_DOMAINS = {"eu-de": "otc.t-systems.com", "eu-nl": "otc.t-systems.com", "eu-ch2": "sc.otc.t-systems.com"}
OTC_NAMES: Mapping[tuple[str, str], str] = {("eu-ch2", "iam"): "iam-pub"}
HUAWEI_DOMAIN = "myhuaweicloud.com"
HUAWEI_DOMAINS = {"eu-west-101": "myhuaweicloud.eu"}

REGION_VARIABLES = ("SERVEKIT_MODELARTS_REGION", "HUAWEICLOUD_REGION", "HW_REGION_NAME", "OS_REGION_NAME")
PROJECT_VARIABLES = ("SERVEKIT_MODELARTS_PROJECT_ID", "HUAWEICLOUD_SDK_PROJECT_ID", "HW_PROJECT_ID", "OS_PROJECT_ID")
ENDPOINT_VARIABLE = "SERVEKIT_MODELARTS_ENDPOINT"
IAM_VARIABLE = "SERVEKIT_MODELARTS_IAM_ENDPOINT"
SWR_VARIABLE = "SERVEKIT_MODELARTS_SWR_ENDPOINT"


@dataclass(frozen=True, slots=True)
class Endpoints:
    """
    modelarts, iam, swr: base URLs of the APIs. registry: SWR's host, as it stands in names of images.
    private: modelarts is not the region's own. iam_given, swr_given: somebody has said where these are.
    """

    region: str
    cloud: Cloud
    modelarts: str
    iam: str
    swr: str
    registry: str
    private: bool = False
    iam_given: bool = False
    swr_given: bool = False


def find(
    region: str,
    *,
    environ: Mapping[str, str],
    endpoint: str | None = None,
    iam_endpoint: str | None = None,
    swr_endpoint: str | None = None,
    cloud: Cloud | None = None,
    insecure_http: bool = False,
) -> Endpoints:
    """An option beats its variable, which beats the region. Raises ConfigError."""
    check_region(region)
    chosen: Cloud = cloud or ("otc" if region in OTC_DOMAINS else "huawei")

    def url(option: str, variable: str, given: str | None, service: str) -> str:
        text, origin = (given, option) if given else (environ.get(variable, "").strip(), variable)
        return check_endpoint(origin, text or f"https://{host(service, region, chosen)}", insecure_http=insecure_http)

    modelarts = url("--endpoint", ENDPOINT_VARIABLE, endpoint, "modelarts")
    # An endpoint on this machine is an emulator, which has all three; credentials for it go to nobody else.
    iam_given, swr_given = iam_endpoint, swr_endpoint
    if is_loopback(urlsplit(modelarts).hostname or ""):
        iam_given = iam_given or environ.get(IAM_VARIABLE) or modelarts
        swr_given = swr_given or environ.get(SWR_VARIABLE) or modelarts
    return Endpoints(
        region=region,
        cloud=chosen,
        modelarts=modelarts,
        iam=url("--iam-endpoint", IAM_VARIABLE, iam_given, "iam"),
        swr=url("--swr-endpoint", SWR_VARIABLE, swr_given, "swr-api"),
        registry=host("swr", region, chosen),
        private=modelarts != f"https://{host('modelarts', region, chosen)}",
        iam_given=bool(iam_given or environ.get(IAM_VARIABLE, "").strip()),
        swr_given=bool(swr_given or environ.get(SWR_VARIABLE, "").strip()),
    )


def host(service: str, region: str, cloud: Cloud) -> str:
    if cloud == "otc":
        name = OTC_NAMES.get((region, service), service)
        return f"{name}.{region}.{OTC_DOMAINS.get(region, 'otc.t-systems.com')}"
    return f"{service}.{region}.{HUAWEI_DOMAINS.get(region, HUAWEI_DOMAIN)}"


def check_region(region: str) -> str:
    if not REGION.fullmatch(region):
        raise ConfigError(f"--region: expected a region such as cn-north-4, ap-southeast-3 or eu-de, got {region!r}")
    return region


def check_project(project_id: str) -> str:
    if not PROJECT_ID.fullmatch(project_id):
        raise ConfigError(
            "--project-id: expected the project's ID, 32 letters and digits from the console's page `My Credentials`, "
            f"got {project_id!r}"
        )
    return project_id

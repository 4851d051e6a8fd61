"""The calls of ModelArts' control plane, as its pages list them: one function for each, and no decisions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from servekit.publish.failures import NotUnderstood, PublishError, Unauthorised
from servekit.publish.http import Answer, Query, Transport, say_nothing
from servekit.publish.modelarts import credentials, errors
from servekit.publish.modelarts.credentials import Keys, Tokens
from servekit.publish.modelarts.endpoints import Endpoints
from servekit.publish.modelarts.images import Group, Image, Registration
from servekit.publish.modelarts.signer import KeyPair

PAGE = 100
# Nobody has as many images; a platform that never says the end must not hold us for ever.
MAX_PAGES = 1000

# OTC's page has a query argument, the SDK a body.
ForceForm = Literal["query", "body"]


@dataclass(frozen=True, slots=True)
class Caller:
    """One API at one endpoint, with a token that is renewed once where it has ended."""

    transport: Transport
    authoriser: Keys | Tokens

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.transport.__exit__(*exc)

    def call(
        self, method: str, path: str, *, query: Query = (), document: Any = None, repeatable: bool | None = None
    ) -> Answer:
        try:
            try:
                return self.transport.call(method, path, query=query, document=document, repeatable=repeatable)
            except Unauthorised:
                # A refused request has done nothing, so that it may be sent again.
                if not self.authoriser.renew():
                    raise
                return self.transport.call(method, path, query=query, document=document, repeatable=repeatable)
        except PublishError as error:
            raise errors.of_kind(error) from error.__cause__


def caller(endpoint: str, authoriser: Keys | Tokens, tell: Callable[[str], None] = say_nothing) -> Caller:
    return Caller(Transport(endpoint, authorise=authoriser, explain=errors.explain, tell=tell), authoriser)


@dataclass(frozen=True, slots=True)
class ModelArts:
    """One project in one region."""

    api: Caller
    project_id: str
    force_form: ForceForm = "body"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.api.__exit__(*exc)

    # --- images ---

    def register(self, registration: Registration) -> Image:
        return self._image(self._call("POST", "/images", document=registration.document()))

    def images(
        self,
        *,
        type: str = "DEDICATED",  # noqa: A002 - the API's word
        name: str = "",
        fuzzy: bool = False,
        namespace: str = "",
        service_type: str = "",
        workspace_id: str = "",
        sort_key: str = "",
        sort_dir: str = "",
    ) -> Iterator[Image]:
        """Page by page. Without a type the platform shows its own images only."""
        query = _given(
            type=type, name=name, name_fuzzy_match=str(fuzzy).lower() if name else "", namespace=namespace,
            service_type=service_type, workspace_id=workspace_id, sort_key=sort_key, sort_dir=sort_dir,
        )  # fmt: skip
        yield from (Image.of(each) for each in self._pages("/images", query))

    def show(self, image_id: str) -> Image:
        return self._image(self._call("GET", f"/images/{image_id}"))

    def delete(self, image_id: str, *, force: bool = False) -> Image | None:
        """force: its content in SWR goes, too. None where the platform says nothing."""
        query: Query = ()
        document = None
        if force and self.force_form == "query":
            query = (("force", "true"),)
        elif force:
            document = {"is_force": True}
        answer = self._call("DELETE", f"/images/{image_id}", query=query, document=document)
        return self._image(answer) if answer.document().get("id") else None

    def sync(self, image_id: str) -> Image | None:
        """Have the platform look at SWR again."""
        answer = self._call("POST", f"/images/{image_id}/sync", repeatable=True)
        return self._image(answer) if answer.document().get("id") else None

    def groups(self, *, type: str = "DEDICATED", name: str = "", namespace: str = "") -> Iterator[Group]:  # noqa: A002
        yield from (
            Group.of(each) for each in self._pages("/images/group", _given(type=type, name=name, namespace=namespace))
        )

    # --- models and services ---

    def create_model(self, document: Mapping[str, Any]) -> str:
        return _id(self._call("POST", "/models", document=document), "model_id")

    def model(self, model_id: str) -> dict[str, Any]:
        return self._call("GET", f"/models/{model_id}").document()

    def models(self, name: str) -> list[dict[str, Any]]:
        """Those of exactly this name, all versions."""
        query = (("model_name", name), ("exact_match", "true"), ("limit", str(PAGE)))
        return _objects(self._call("GET", "/models", query=query), "models")

    def create_service(self, document: Mapping[str, Any]) -> str:
        return _id(self._call("POST", "/services", document=document), "service_id")

    def service(self, service_id: str) -> dict[str, Any]:
        return self._call("GET", f"/services/{service_id}").document()

    def services(self, name: str) -> list[dict[str, Any]]:
        return _objects(
            self._call("GET", "/services", query=(("service_name", name), ("limit", str(PAGE)))), "services"
        )

    def delete_service(self, service_id: str) -> None:
        self._call("DELETE", f"/services/{service_id}").json()

    def create_service2(self, document: Mapping[str, Any]) -> str:
        return _id(self._call("POST", "/services", document=document, version="v2"), "id")

    def service2(self, service_id: str) -> dict[str, Any]:
        return self._call("GET", f"/services/{service_id}", version="v2").document()

    def services2(self, name: str) -> list[dict[str, Any]]:
        query = (("name", name), ("limit", str(PAGE)))
        return _objects(self._call("GET", "/services", query=query, version="v2"), "data", "services")

    def delete_service2(self, service_id: str) -> None:
        """The API deletes several at once, and says of each whether it did."""
        # Doing it twice is doing it once.
        document = {"service_ids": [service_id]}
        self._call("POST", "/services/delete", document=document, version="v2", repeatable=True).json()

    # --- how ---

    def _call(
        self, method: str, path: str, *, query: Query = (), document: Any = None, version: str = "v1",
        repeatable: bool | None = None,
    ) -> Answer:  # fmt: skip
        return self.api.call(
            method, f"/{version}/{self.project_id}{path}", query=query, document=document, repeatable=repeatable
        )

    def _image(self, answer: Answer) -> Image:
        return Image.of(answer.document())

    def _pages(self, path: str, query: Query) -> Iterator[Any]:
        offset = 0
        for _ in range(MAX_PAGES):
            page = self._call("GET", path, query=(("limit", str(PAGE)), ("offset", str(offset)), *query)).document()
            data = page.get("data")
            if data is None:
                data = []
            if not isinstance(data, list):
                raise NotUnderstood(f"GET {path}: data: expected a list, got {type(data).__name__}")
            yield from data
            offset += len(data)
            total = page.get("total")
            if not data or (offset >= total if isinstance(total, int) else len(data) < PAGE):
                return
        raise NotUnderstood(f"GET {path}: expected an end of the list within {MAX_PAGES} pages")


def _given(**values: str) -> Query:
    return tuple((name, value) for name, value in values.items() if value)


def _id(answer: Answer, name: str) -> str:
    value = answer.document().get(name)
    if not isinstance(value, str) or not value:
        raise NotUnderstood(f"expected {name} in the answer, got {list(answer.document())}", status=answer.status)
    # It becomes a part of the next paths.
    if "/" in value or not value.isprintable() or value in (".", ".."):
        raise NotUnderstood(f"{name}: expected an ID, got {value[:100]!r}", status=answer.status)
    return value


def _objects(answer: Answer, *names: str) -> list[dict[str, Any]]:
    document = answer.document()
    for name in names:
        if isinstance(document.get(name), list):
            return [each for each in document[name] if isinstance(each, dict)]
    return []


def connect(
    endpoints: Endpoints,
    project_id: str,
    who: KeyPair | credentials.Login,
    *,
    cache: Any = None,
    tell: Callable[[str], None] = say_nothing,
) -> tuple[ModelArts, Keys | Tokens]:
    """The client, and what proves who asks, for SWR."""
    authoriser = credentials.authoriser(
        who, iam=endpoints.iam, region=endpoints.region, project_id=project_id, cache=cache, tell=tell
    )
    client = ModelArts(
        caller(endpoints.modelarts, authoriser, tell), project_id, "query" if endpoints.cloud == "otc" else "body"
    )
    return client, authoriser

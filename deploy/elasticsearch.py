"""The search indices of an Elasticsearch cluster: as found, compared with what is wanted, and brought there."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, assert_never
from urllib.parse import urlsplit

from elasticsearch import ApiError, Elasticsearch, TransportError, UnsupportedProductError

from deploy.differences import IndexFieldDiffers, IndexLacksField, MissingTemplate, TemplateDiffers
from deploy.errors import DeployError, Refused, Unreachable
from deploy.indices import PRIORITY, VERSION, Properties, TemplateDefinition
from schemas.connections import Connections, NotConfigured

_TIMEOUT_S: Final = 10.0
"""One request's bound. Each is answered from the cluster's state, or changes it, which takes tens of milliseconds."""

_FIRST_SERVER_ERROR: Final = 500
_NOT_AS_ELASTICSEARCH: Final = "it does not answer as Elasticsearch does; check DAYBOOK_ELASTICSEARCH_URL"


class SearchIndices:
    """An Elasticsearch cluster. Every request blocks for some seconds at most.

    The methods raise `Unreachable` when it does not answer, and `Refused` when it turns a request down.
    """

    def __init__(self, connections: Connections) -> None:
        """Raises: `NotConfigured`."""
        config = connections.elasticsearch()
        parts = urlsplit(config["hosts"])
        # Without the user and the password, if it holds them.
        self._address = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
        try:
            # Whether to try again is the operator's decision: applying may be repeated.
            self._client = Elasticsearch(**{**config, "request_timeout": _TIMEOUT_S, "max_retries": 0})
        except (ValueError, OSError):
            # The error would tell the address with its password.
            raise NotConfigured(
                "DAYBOOK_ELASTICSEARCH_URL is not an address, or DAYBOOK_ELASTICSEARCH_SSL_CA not a file of "
                "certificates: write http://HOST:PORT or https://HOST:PORT"
            ) from None

    def close(self) -> None:
        self._client.close()

    def compared(
        self, wanted: Sequence[TemplateDefinition]
    ) -> Iterator[MissingTemplate | TemplateDiffers | IndexLacksField | IndexFieldDiffers]:
        """How the templates, and the indices that were made from them, differ from what is wanted."""
        for template in wanted:
            found = self._template(template.name)
            if found is None:
                yield MissingTemplate(template)
            elif differing := template_differs(template, found):
                yield TemplateDiffers(template, differing, _settings(found))
            for index, properties in self._indices(template).items():
                yield from index_differs(index, template.properties, properties)

    def bring(self, difference: MissingTemplate | TemplateDiffers | IndexLacksField) -> None:
        """Put one difference right."""
        match difference:
            case MissingTemplate(template):
                self._put(template, {})
            case TemplateDiffers(template, _, settings):
                self._put(template, settings)
            case IndexLacksField(index, field, mapping):
                self._ask(
                    lambda: self._client.indices.put_mapping(
                        index=index, properties={field.partition(".")[0]: mapping}
                    ),
                    f"field {field} could not be added to index {index}",
                )
            case _:
                assert_never(difference)

    def _put(self, template: TemplateDefinition, found_settings: Mapping[str, str]) -> None:
        """Create or replace a template. Settings that were found stay, whatever they are."""
        self._ask(
            lambda: self._client.indices.put_index_template(
                name=template.name,
                index_patterns=[template.pattern],
                priority=PRIORITY,
                allow_auto_create=False,
                meta={"managed_by": "daybook", "version": VERSION},
                template={"settings": {**template.settings, **found_settings}, "mappings": template.mappings},
            ),
            f"index template {template.name} could not be put",
        )

    def _template(self, name: str) -> Mapping[str, Any] | None:
        # One that is missing is "not found", which is no failure here.
        client = self._client.options(ignore_status=404)
        found = self._ask(
            lambda: client.indices.get_index_template(name=name, flat_settings=True),
            f"index template {name} could not be read",
        )
        templates: Sequence[Mapping[str, Any]] = found.get("index_templates", ())
        return next((one["index_template"] for one in templates), None)

    def _indices(self, template: TemplateDefinition) -> Mapping[str, Properties]:
        """The indices behind an alias, past, present or to be, with the fields that they have."""
        found = self._ask(
            lambda: self._client.indices.get_mapping(index=template.pattern, expand_wildcards="all"),
            f"the mappings of {template.pattern} could not be read",
        )
        ours = re.compile(re.escape(template.alias) + r"-\d{6}")
        return {name: found[name]["mappings"].get("properties", {}) for name in sorted(found) if ours.fullmatch(name)}

    def _ask(self, request: Callable[[], Any], what: str) -> Any:
        try:
            return request().body
        except UnsupportedProductError as error:
            raise Unreachable("Elasticsearch", self._address, _NOT_AS_ELASTICSEARCH) from error
        except ApiError as error:
            raise self._told_apart(error, what) from error
        except TransportError as error:
            why = f"{error.message}; is it running (`daybook stack up` starts one here)?"
            raise Unreachable("Elasticsearch", self._address, why) from error

    def _told_apart(self, error: ApiError, what: str) -> DeployError:
        status, reason = error.meta.status, _reason(error)
        if error.meta.headers.get("x-elastic-product") != "Elasticsearch":
            return Unreachable("Elasticsearch", self._address, f"{what}: {status} {reason}; {_NOT_AS_ELASTICSEARCH}")
        if status >= _FIRST_SERVER_ERROR or status in (408, 429):
            return Unreachable("Elasticsearch", self._address, f"{what}: {status} {reason}")
        return Refused(f"{what} (Elasticsearch at {self._address}): {status} {reason}")


def template_differs(wanted: TemplateDefinition, found: Mapping[str, Any]) -> tuple[str, ...]:
    """Which parts of a template, as Elasticsearch gives it, are not as wanted."""
    mappings = found.get("template", {}).get("mappings", {})
    parts: tuple[tuple[str, object, object], ...] = (
        ("index_patterns", found.get("index_patterns"), [wanted.pattern]),
        ("priority", found.get("priority"), PRIORITY),
        ("allow_auto_create", found.get("allow_auto_create"), False),
        # What components or aliases add would be in every index made from it.
        ("composed_of", found.get("composed_of", []), []),
        ("aliases", found.get("template", {}).get("aliases", {}), {}),
        ("mappings.dynamic", mappings.get("dynamic"), wanted.mappings["dynamic"]),
    )
    differing = [name for name, is_so, should_be in parts if is_so != should_be]
    is_so, should_be = flattened(mappings.get("properties", {})), flattened(wanted.properties)
    differing += [f"field {name}" for name in sorted({*is_so, *should_be}) if is_so.get(name) != should_be.get(name)]
    differing += [f"setting {name}" for name in wanted.settings if name not in _settings(found)]
    return tuple(differing)


def index_differs(index: str, wanted: Properties, found: Properties) -> Iterator[IndexLacksField | IndexFieldDiffers]:
    """How the fields of an index differ from those wanted. Further fields are left alone."""
    there = flattened(found)
    for name, mapping in flattened(wanted).items():
        whole = wanted[name.partition(".")[0]]
        if name not in there:
            # Of a field that is missing altogether, the fields below it go without saying.
            if "." not in name or name.partition(".")[0] in there:
                yield IndexLacksField(index, name, whole)
        elif there[name] != mapping:
            yield IndexFieldDiffers(index, name, there[name], mapping)


def flattened(properties: Properties) -> dict[str, dict[str, Any]]:
    """Each field by its name and each of its sub-fields by both names, as searches write them, with its mapping."""
    flat: dict[str, dict[str, Any]] = {}
    for name, mapping in properties.items():
        flat[name] = {key: value for key, value in mapping.items() if key != "fields"}
        for sub_field, sub_mapping in mapping.get("fields", {}).items():
            flat[f"{name}.{sub_field}"] = dict(sub_mapping)
    return flat


def _settings(template: Mapping[str, Any]) -> Mapping[str, str]:
    settings: Mapping[str, str] = template.get("template", {}).get("settings", {})
    return settings


def _reason(error: ApiError) -> str:
    cause = error.body.get("error") if isinstance(error.body, dict) else None
    return str(cause.get("reason", error.message)) if isinstance(cause, dict) else str(cause or error.message)

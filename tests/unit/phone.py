"""A program that adds a field type, ``phone``, as one row and prints what a service makes of a field of that type.

It has an interpreter of its own, because the modules of the service read the table of types when they are imported.
"""

from __future__ import annotations

import json
from typing import Any, cast

from marshmallow import ValidationError, validate

from rowcast.resources.types import FIELD_TYPES
from rowcast.resources.types.text import text_type

E164 = r"^\+[1-9][0-9]{6,14}$"
cast(dict[str, Any], FIELD_TYPES)["phone"] = text_type(
    "phone",
    max_length=16,
    validator=validate.Regexp(E164, error="Use the international form, such as +4912345678."),
    check=E164,
    rules={"pattern": E164},
)


def main() -> None:
    """Print the config problem of a wrong default, the error of a wrong value in a body, DDL and JSON Schema of the type."""
    from sqlalchemy.schema import CreateTable

    from rowcast.configuration import declarations, json_schema, yaml
    from rowcast.openapi.document import document
    from rowcast.resources.sql import DIALECT
    from rowcast.resources.tables import Tables
    from rowcast.rest.serializer_fields import generated_fields
    from rowcast.rest.viewsets import ModelViewSet

    from .openapi.sample import plans_of, resources_of, routes_of, service_of

    problems = yaml.Problems()
    wrong = yaml.parse("fields: {number: {type: phone, default: '12'}}", "wrong.yaml", {}, problems)
    assert wrong is not None
    declarations.read(wrong, "wrong", problems)

    fields = "{number: {type: phone}, others: {type: array, of: phone, default: []}}"
    resources = resources_of({"contacts": f"fields: {fields}"})
    service = service_of(resources)
    plans = plans_of(service, {"contacts": (ModelViewSet, {})})
    described = document(service, routes_of(plans), version="1")
    generated, _ = generated_fields(resources, resources["contacts"])
    try:
        generated["number"].deserialize("12")
        refused: object = []
    except ValidationError as error:
        refused = error.messages
    config = json_schema.json_schemas()["resource.schema.json"]
    fields_schema = config["properties"]["fields"]["additionalProperties"]
    print(
        json.dumps(
            {
                "problems": problems.lines(),
                "body": refused,
                "ddl": str(CreateTable(Tables(resources).of["contacts"]).compile(dialect=DIALECT)),
                "openapi": described["components"]["schemas"]["ContactCreate"]["properties"]["number"],
                "config": fields_schema["allOf"],
            }
        )
    )


if __name__ == "__main__":
    main()

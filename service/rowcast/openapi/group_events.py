"""The events of a stream of aggregates."""

from __future__ import annotations

from typing import Final

from rowcast.openapi.values import OBJECT
from rowcast.resources.fields import Schema

GROUP_EVENT: Final = "group"  # the name of these events
GROUP_SCHEMA: Final[Schema] = {
    "type": "object",
    "properties": {
        "group": OBJECT | {"description": "The values that the rows of the group have in common, by name."},
        "data": {
            "type": ["object", "null"],
            "additionalProperties": True,
            "description": "The group and its results, by name; null if it is gone or does not meet the conditions.",
        },
    },
    "required": ["group", "data"],
}
DESCRIPTION: Final = (
    "The groups that change, as server-sent events: `group` has a group and its results, null if it is gone or no longer "
    "meets the conditions on results. With the `X-Stream-Position` of the groups as `last_event_id`, or with `snapshot=true`, "
    "a client has exactly the results at each id that it receives."
)

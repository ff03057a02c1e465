"""The media type of bodies: JSON, or based on it."""

from __future__ import annotations

from typing import Final

JSON: Final = "application/json"


def is_json(content_type: str) -> bool:
    """Whether a media type is JSON, or based on it (RFC 6839)."""
    media_type = content_type.partition(";")[0].strip().lower()
    return media_type == JSON or media_type.endswith("+json")

"""JSON in the admin's forms: what PostgreSQL can hold; what it cannot is refused in words and shown as it was typed."""

from __future__ import annotations

from typing import Any

from django import forms
from django.core.exceptions import ValidationError
from django.forms.fields import InvalidJSONInput

from jobs.catalogue_rules import MAX_DOCUMENT_BYTES
from jobs.errors import InvalidRequest
from jobs.validation import check_json


class DocumentField(forms.JSONField):
    """Django's own knows of wrong syntax only."""

    def to_python(self, value: Any) -> Any:
        """The document."""
        try:
            document = super().to_python(value)
            check_json("document", document, MAX_DOCUMENT_BYTES)
        except InvalidRequest as wrong:
            raise ValidationError(f"This {wrong.reason}.") from None
        except (ValueError, RecursionError):  # a number of thousands of digits; nested too deeply
            raise ValidationError("This must be plain JSON.") from None
        return document

    def bound_data(self, data: Any, initial: Any) -> Any:
        """What was sent, to be corrected."""
        try:
            self.to_python(data)
        except ValidationError:
            return InvalidJSONInput(data or "")
        return super().bound_data(data, initial)

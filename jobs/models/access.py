"""Who may use what: files and their owners, tokens for scripts."""

from __future__ import annotations

import hashlib
import secrets
from typing import ClassVar

from django.conf import settings
from django.db import models
from django.db.models.functions import Now


class InputFile(models.Model):
    """A file uploaded through us. Its bytes are at the MDS; its owner and line count are here."""

    id = models.CharField(primary_key=True, max_length=128, help_text="The MDS's file id.")
    owner = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="input_files")
    filename = models.CharField(max_length=255)
    purpose = models.CharField(max_length=32, default="batch")
    size_bytes = models.PositiveBigIntegerField()
    request_count = models.PositiveIntegerField(help_text="Lines that are not blank.")
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        indexes: ClassVar = [
            # lists, newest first: everybody's, and one owner's
            models.Index(fields=["-created_at", "-id"], name="file_list"),
            models.Index(fields=["owner", "-created_at", "-id"], name="file_owner_list"),
        ]
        default_permissions = ("view",)

    def __str__(self) -> str:
        return self.filename


class ApiToken(models.Model):
    """A personal token for scripts. Only its digest is kept; the token itself is shown once."""

    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="api_tokens")
    name = models.CharField(max_length=100)
    digest = models.CharField(max_length=64, unique=True, editable=False)
    created_at = models.DateTimeField(db_default=Now())
    revoked_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering: ClassVar = ["-created_at"]

    def __str__(self) -> str:
        return self.name

    @staticmethod
    def digest_of(token: str) -> str:
        """SHA-256: the token has 256 random bits, so a slow hash would add nothing."""
        return hashlib.sha256(token.encode()).hexdigest()

    @classmethod
    def issue(cls, user: object, name: str) -> tuple[ApiToken, str]:
        """Store a new token for `user`; returns the row and the token, which cannot be had again."""
        token = f"abp_{secrets.token_urlsafe(32)}"
        return cls.objects.create(user=user, name=name, digest=cls.digest_of(token)), token

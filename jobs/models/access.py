"""Who may use what: files and their owners, tokens for scripts, people of an identity provider, rates."""

from __future__ import annotations

import hashlib
import secrets
from datetime import datetime, timedelta
from typing import ClassVar

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.db.models.functions import Now

USE_NOTED_FOR = timedelta(minutes=1)  # so often at most it is written that a token is used


class InputFile(models.Model):
    """A file uploaded through us. Its bytes are at the MDS; its owner and line count are here."""

    id = models.CharField(primary_key=True, max_length=128, help_text="The MDS's file id.")
    owner = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="input_files")
    filename = models.CharField(max_length=255)
    purpose = models.CharField(max_length=32, default="batch")
    size_bytes = models.PositiveBigIntegerField()
    request_count = models.PositiveIntegerField(help_text="Lines that are not blank.")
    endpoint = models.CharField(max_length=64, blank=True, help_text="What all of them are for; empty: not known.")
    created_at = models.DateTimeField(db_default=Now())
    deletion_requested_at = models.DateTimeField(
        null=True,
        blank=True,
        help_text="From then on no job is made from it; the row stays until the MDS has deleted it.",
    )

    class Meta:
        indexes: ClassVar = [
            # lists, newest first: everybody's, and one owner's
            models.Index(fields=["-created_at", "-id"], name="file_list"),
            models.Index(fields=["owner", "-created_at", "-id"], name="file_owner_list"),
        ]
        default_permissions = ("view",)

    def __str__(self) -> str:
        return self.filename


class ApiTokenQuerySet(models.QuerySet["ApiToken"]):
    """Tokens by what they still open."""

    def unrevoked(self) -> ApiTokenQuerySet:
        """Those that nobody has revoked; they may have expired."""
        return self.filter(revoked_at=None)

    def revoke(self) -> int:
        """At once and for good; returns how many were not revoked before."""
        return self.unrevoked().update(revoked_at=Now())

    def note_use(self) -> int:
        """Write that they are used now, unless somebody just did; returns how many rows were written."""
        return self.exclude(Q(last_used_at__isnull=False, last_used_at__gt=Now() - USE_NOTED_FOR)).update(
            last_used_at=Now()
        )


class ApiToken(models.Model):
    """A personal token for scripts. Only its digest is kept; the token itself is shown once."""

    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="api_tokens")
    name = models.CharField(max_length=100)
    digest = models.CharField(max_length=64, unique=True, editable=False)
    created_at = models.DateTimeField(db_default=Now())
    expires_at = models.DateTimeField(null=True, blank=True, help_text="From then on it opens nothing.")
    last_used_at = models.DateTimeField(null=True, editable=False, help_text="To the minute.")
    revoked_at = models.DateTimeField(null=True, blank=True)

    objects = ApiTokenQuerySet.as_manager()

    class Meta:
        ordering: ClassVar = ["-created_at"]

    def __str__(self) -> str:
        return self.name

    @staticmethod
    def digest_of(token: str) -> str:
        """SHA-256: the token has 256 random bits, so a slow hash would add nothing."""
        return hashlib.sha256(token.encode()).hexdigest()

    @classmethod
    def issue(cls, user: object, name: str, expires_at: datetime | None = None) -> tuple[ApiToken, str]:
        """Store a new token for `user`; returns the row and the token, which cannot be had again."""
        token = f"abp_{secrets.token_urlsafe(32)}"
        return cls.objects.create(user=user, name=name, digest=cls.digest_of(token), expires_at=expires_at), token


class Identity(models.Model):
    """A person as an identity provider knows them. The subject is theirs for ever; names and e-mails are not."""

    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="identities")
    issuer = models.CharField(max_length=255)
    subject = models.CharField(max_length=255)
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        verbose_name_plural = "identities"
        constraints: ClassVar = [models.UniqueConstraint(fields=["issuer", "subject"], name="identity_unique")]

    def __str__(self) -> str:
        return f"{self.subject} at {self.issuer}"


class RateLimit(models.Model):
    """What somebody has used of a rate: a bucket that fills by itself, kept as the time at which it is full again.

    The table is unlogged: a crash of the database empties it, and a write to it waits for no disk.
    """

    key = models.CharField(primary_key=True, max_length=128)
    full_at = models.DateTimeField()

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return self.key

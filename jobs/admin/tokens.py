"""Tokens for scripts: issued to oneself, shown once, revoked rather than deleted. And whom a provider's people are."""

from __future__ import annotations

from typing import Any

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse

from jobs.admin.base import ModelAdmin
from jobs.admin.rows import logged_in
from jobs.models import ApiToken, Identity


@admin.register(ApiToken)
class ApiTokenAdmin(ModelAdmin):  # type: ignore[type-arg] # the stubs' generic does not exist at run time
    """Rows hold digests only; the token itself is on the page that issues it and nowhere else."""

    list_display = ("name", "user", "created_at", "last_used_at", "expires_at", "revoked_at")
    list_select_related = ("user",)
    search_fields = ("name__istartswith", "user__username__exact")
    fields = ("name", "expires_at")
    actions = ("revoke",)

    def has_change_permission(self, request: HttpRequest, obj: ApiToken | None = None) -> bool:
        """A token is issued and revoked, never edited."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: ApiToken | None = None) -> bool:
        """A revoked token stays as a trace."""
        return False

    def has_revoke_permission(self, request: HttpRequest) -> bool:
        """Django's own right to change tokens."""
        return request.user.has_perm("jobs.change_apitoken")

    def save_model(self, request: HttpRequest, obj: ApiToken, form: Any, change: bool) -> None:
        """Issue it to whoever asks: nobody can make a token for somebody else."""
        row, obj.issued_token = ApiToken.issue(logged_in(request), obj.name, obj.expires_at)  # type: ignore[attr-defined]
        obj.pk, obj.user = row.pk, row.user

    def response_add(self, request: HttpRequest, obj: ApiToken, post_url_continue: str | None = None) -> HttpResponse:
        """Show the token: a message would leave it in a cookie or a session."""
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": "Token issued",
            "name": obj.name,
            "token": obj.issued_token,  # type: ignore[attr-defined]
        }
        return TemplateResponse(request, "admin/jobs/token_issued.html", context, headers={"Cache-Control": "no-store"})

    @admin.action(description="Revoke selected tokens", permissions=["revoke"])
    def revoke(self, request: HttpRequest, queryset: QuerySet[ApiToken]) -> None:
        """At once and for good."""
        live = list(queryset.filter(revoked_at=None))
        ApiToken.objects.filter(pk__in=[token.pk for token in live]).revoke()
        for token in live:
            self.log_change(request, token, "Revoked.")
        self.message_user(request, f"{len(live)} revoked.", messages.SUCCESS)


@admin.register(Identity)
class IdentityAdmin(ModelAdmin):  # type: ignore[type-arg] # the stubs' generic does not exist at run time
    """Here, and nowhere else, a person of the identity provider is given an account that was there before."""

    list_display = ("user", "subject", "issuer", "created_at")
    list_select_related = ("user",)
    search_fields = ("user__username__istartswith", "subject__exact")
    autocomplete_fields = ("user",)
    fields = ("user", "issuer", "subject")

"""Users and groups: Django's own pages in the admin's dress."""

from __future__ import annotations

from django.contrib import admin
from django.contrib.auth.admin import GroupAdmin, UserAdmin
from django.contrib.auth.models import Group, User

from jobs.admin.base import AdminPasswordChangeForm, ModelAdmin, UserChangeForm, UserCreationForm

admin.site.unregister([User, Group])


@admin.register(User)
class PeopleAdmin(UserAdmin, ModelAdmin):  # type: ignore[type-arg] # the stubs' generic does not exist at run time
    """Who gets in; a role is a group."""

    form = UserChangeForm
    add_form = UserCreationForm
    change_password_form = AdminPasswordChangeForm
    list_display = ("username", "email", "is_active", "is_staff", "is_superuser", "last_login")
    list_per_page = 50
    show_facets = admin.ShowFacets.NEVER
    show_full_result_count = False


@admin.register(Group)
class RolesAdmin(GroupAdmin, ModelAdmin):  # type: ignore[type-arg] # the stubs' generic does not exist at run time
    """The roles, and what comes with them."""

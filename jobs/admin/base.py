"""The admin's classes, dressed by Unfold, which ships no types: they are Django's own with other templates."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from django.contrib.admin import ModelAdmin
    from django.contrib.admin import RelatedFieldListFilter as AutocompleteFilter
    from django.contrib.auth.forms import AdminPasswordChangeForm, UserChangeForm, UserCreationForm
else:
    from unfold.admin import ModelAdmin
    from unfold.contrib.filters.admin import AutocompleteSelectFilter as AutocompleteFilter
    from unfold.forms import AdminPasswordChangeForm, UserChangeForm, UserCreationForm

__all__ = ["AdminPasswordChangeForm", "AutocompleteFilter", "ModelAdmin", "UserChangeForm", "UserCreationForm"]

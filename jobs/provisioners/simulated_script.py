"""Scripted misbehaviour of the simulated provider."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(eq=False)
class Rule:
    """One scripted misbehaviour. The first rule that matches a call decides it, `times` times (None: always)."""

    on: str  # create, list or delete
    times: int | None = 1
    name_prefix: str = ""  # a listing of everything has the name ""
    accelerator_type: str = ""  # of creates; empty matches all
    delay_seconds: float = 0  # before it acts; ends early when the rule is withdrawn
    answer_delay_seconds: float = 0  # after it has acted
    status: int = 0  # answer this error
    code: str = "scripted"
    retry_after_seconds: int | None = None
    drop: bool = False  # answer nothing and close the connection
    is_applied: bool = False  # an errored or dropped call acts all the same
    ready_seconds: float | None = None  # of creates, instead of the server's
    is_never_ready: bool = False
    visible_after_seconds: float = 0  # of creates: listed only then
    linger_seconds: float = 0  # of deletes: listed and billed that much longer
    is_withdrawn: bool = field(default=False, init=False)


class Script:
    """The rules in force, and the waiting they ask for. `changed` guards them; callers hold it."""

    def __init__(self, changed: threading.Condition) -> None:
        self._changed = changed
        self._rules: list[Rule] = []

    def add(self, rule: Rule) -> None:
        """Rules added first are asked first."""
        self._rules.append(rule)

    def withdraw(self, rule: Rule) -> None:
        """End a rule, used up or not; calls it holds back go on at once."""
        rule.is_withdrawn = True
        self._rules = [other for other in self._rules if other is not rule]
        self._changed.notify_all()

    def clear(self) -> None:
        """End all rules."""
        for rule in self._rules:
            self.withdraw(rule)

    def take(self, verb: str, name: str, accelerator_type: str) -> Rule:
        """The rule for a call: the first that matches, or one that asks for nothing."""
        for rule in self._rules:
            is_meant = rule.on == verb and rule.accelerator_type in ("", accelerator_type)
            if is_meant and rule.times != 0 and name.startswith(rule.name_prefix):
                if rule.times is not None:
                    rule.times -= 1  # kept at 0, so that calls it still holds back can be let go
                return rule
        return Rule(on=verb)

    def hold(self, rule: Rule, seconds: float, is_over: Callable[[], bool]) -> None:
        """Wait, without the lock, until the time is up, the rule withdrawn or everything over."""
        if seconds > 0:
            self._changed.wait_for(lambda: rule.is_withdrawn or is_over(), seconds)

"""Scripted misbehaviour of a double."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field


@dataclass(eq=False)
class Rule:
    """One scripted misbehaviour. The first rule that matches a call decides it, `times` times (None: always).

    Which verbs there are (`on`) and what a call's name is, each double says.
    """

    on: str
    times: int | None = 1
    name_prefix: str = ""
    accelerator_type: str = ""  # of the provider's creates; empty matches all
    delay_seconds: float = 0  # before it acts, whether or not the caller still waits
    answer_delay_seconds: float = 0  # after it has acted
    drip_seconds: float = 0  # between any two bytes of the answer's body
    status: int = 0  # answer this error
    code: str = "scripted"
    retry_after_seconds: int | None = None
    drop: bool = False  # answer nothing and close the connection
    is_applied: bool = False  # an errored or dropped call acts all the same
    hides: bool = False  # of gets and listings: what bears the name is not found, though it is there
    shows: str = ""  # this status in the answer, whatever the true one is
    visible_after_seconds: float = 0  # of creates: listed only then
    # the provider's own
    ready_seconds: float | None = None  # of creates, instead of the server's
    is_never_ready: bool = False
    linger_seconds: float = 0  # of deletes: listed as terminating, and billed, that much longer
    # the MDS's own, of creates
    run_seconds: float | None = None  # instead of the server's
    ends: str = "completed"  # the final status, unless somebody cancels it before
    missing_lines: int = 0  # neither completed nor failed at the end

    is_withdrawn: bool = field(default=False, init=False)
    go: threading.Event = field(default_factory=threading.Event, init=False, repr=False)  # calls held back go on

    def matches(self, verb: str, name: str, accelerator_type: str) -> bool:
        """Whether it decides this call. A listing of everything (name "") holds whatever is hidden or shown wrong."""
        if self.on != verb or self.times == 0 or self.accelerator_type not in ("", accelerator_type):
            return False
        is_about_some = verb == "list" and not name and (self.hides or bool(self.shows))
        return name.startswith(self.name_prefix) or is_about_some

    @property
    def may_hold(self) -> bool:
        """Whether calls can be held back by it."""
        return bool(self.delay_seconds or self.answer_delay_seconds or self.drip_seconds)


NO_RULE = Rule(on="")


class Script:
    """The rules in force. Not thread-safe: callers hold their own lock."""

    def __init__(self) -> None:
        self._rules: list[Rule] = []

    def add(self, rule: Rule) -> None:
        """Rules added first are asked first."""
        self._rules.append(rule)

    def withdraw(self, rule: Rule) -> None:
        """End a rule, used up or not; calls it holds back go on at once."""
        rule.is_withdrawn = True
        rule.go.set()
        self._rules = [other for other in self._rules if other is not rule]

    def clear(self) -> None:
        """End all rules."""
        for rule in self._rules:
            self.withdraw(rule)

    def release_all(self) -> None:
        """Let the calls that are held back now go on; the rules stay in force."""
        for rule in self._rules:
            rule.go.set()
            rule.go = threading.Event()

    def take(self, verb: str, name: str, accelerator_type: str = "") -> Rule:
        """The rule for a call: the first that matches, or one that asks for nothing."""
        for rule in self._rules:
            if rule.matches(verb, name, accelerator_type):
                if rule.times is not None:
                    rule.times -= 1
                    if rule.times == 0 and not rule.may_hold:  # the others stay, so that their calls can be let go
                        self._rules.remove(rule)
                return rule
        return NO_RULE

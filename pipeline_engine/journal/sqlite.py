"""A journal in a SQLite file, for one process at a time; with the standard library alone.

Written with one connection, in WAL mode and with `synchronous=FULL`: what was acknowledged survives a power
cut. More than one writing connection would meet the corruption that SQLite had until 3.51.3
(https://sqlite.org/wal.html#walresetbug), and most Pythons carry an older one.

A file comes into being complete: it is made under another name, and renamed. So there is no moment at which a
crash could leave half a journal, and whatever lies at the path and is not marked as one is somebody else's.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import stat
import sys
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from typing_extensions import override

from pipeline_engine.errors import JournalFileError, JournalVersionError
from pipeline_engine.journal.locking import FileLock, sync_folder
from pipeline_engine.journal.schema import APPLICATION_ID, MIGRATIONS, VERSION, engine_version, statements
from pipeline_engine.journal.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["SqliteStore", "Synchronous", "connect_to_read", "file_system_of"]

Synchronous = Literal["FULL", "NORMAL"]
"""When SQLite waits for the disk: at each commit, or at each checkpoint. With "NORMAL" a power cut may take what
was acknowledged since the last checkpoint; the end of a process takes nothing with either."""

_log = logging.getLogger("pipeline_engine")
_TYPES = {"blob": "blob", "real": "real", "big": "integer", "text": "text"}
_OLDEST = (3, 37, 0)
"""The first SQLite with STRICT tables; `returning` and upserts are older."""
_OPENING_PATIENCE = 5.0
_WRITING_PATIENCE = 30.0
"""Seconds for which another program may hold the file: somebody waits for an opening; a commit may wait, as what
it writes has been paid for."""
_CHECKPOINT_FRAMES = 1000
"""Pages in the log after which they are moved into the file: 8 MB."""
_PAGE_BYTES = 8192
"""Of a page of SQLite's usual 4,096 bytes, the row of a 2 KB reply would leave a third empty."""
_FRAME_HEADER_BYTES = 24
_KEPT_WAL_BYTES = 32 * 1024 * 1024
_LARGE_WAL_BYTES = 256 * 1024 * 1024
_NETWORK_FILE_SYSTEMS = frozenset(
    {
        *("afs", "beegfs", "ceph", "cifs", "davfs", "glusterfs", "gpfs", "lustre"),
        *("nfs", "nfs4", "smb3", "smbfs"),
        *("fuse.blobfuse", "fuse.blobfuse2", "fuse.ceph-fuse", "fuse.davfs2", "fuse.gcsfuse", "fuse.glusterfs"),
        *("fuse.goofys", "fuse.rclone", "fuse.s3fs", "fuse.sshfs"),
    }
)


def _connect(name: str) -> sqlite3.Connection:
    return sqlite3.connect(
        name, isolation_level=None, timeout=_OPENING_PATIENCE, check_same_thread=False, cached_statements=256
    )


class SqliteStore(Store):
    """Keep a journal in a SQLite file, or in memory.

    Args:
        path: The file; None keeps it in memory.
        worker: The name under which documents are claimed.
        synchronous: When SQLite waits for the disk.
        migrations: What leads from each version of the tables to the next.
        connect: Opens a file that is to be written.
        checkpoint_frames: Pages in the log after which they are moved into the file.

    Raises:
        JournalInUseError: If another process has the file.
        JournalVersionError: If a newer engine has written it.
        JournalFileError: If it is no journal, or cannot be read or written.
    """

    types = _TYPES

    def __init__(
        self,
        path: Path | None,
        worker: str,
        *,
        synchronous: Synchronous = "FULL",
        migrations: Sequence[str] = MIGRATIONS,
        connect: Callable[[str], sqlite3.Connection] = _connect,
        checkpoint_frames: int = _CHECKPOINT_FRAMES,
    ) -> None:
        super().__init__(worker, is_exclusive=True)
        self._path = path
        self._lock: FileLock | None = None
        self._identity: tuple[Any, ...] = ()
        self._wal: int | None = None
        self._checkpoint_frames = self._mark = checkpoint_frames
        self._frame_bytes = 0
        self._is_sound = True
        self._has_warned = False
        if path is None:
            self._connection = connect(":memory:")
            # It goes when nobody holds it any more; Python 3.13 warns of a connection that nobody has closed.
            weakref.finalize(self, self._connection.close)
            _run(self._connection, 0, migrations)
            return
        try:
            _check_place(path)
            _check_content(path, len(migrations))
            self._lock = FileLock(path)
            self._lock.acquire()
        except (OSError, ValueError) as error:
            raise JournalFileError(str(path), _reason(error)) from error
        try:
            self._connection = _open(path, synchronous, migrations, connect)
            self._watch(path)
        except BaseException:
            self._lock.release()
            raise

    def _watch(self, path: Path) -> None:
        """Remember which files these are: they may be removed or replaced under our hands."""
        self._wal_path = f"{path}-wal"
        try:
            self._wal = os.open(self._wal_path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
            self._identity = _identity(path), _identity(self._wal_path)
            page_bytes = int(self._connection.execute("pragma page_size").fetchone()[0])
            self._frame_bytes = page_bytes + _FRAME_HEADER_BYTES
        except (sqlite3.Error, OSError) as error:
            self._connection.close()
            raise JournalFileError(str(path), _reason(error)) from error

    @override
    def begin(self) -> None:
        self._is_sound = False
        try:
            self._connection.execute("begin immediate")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error):
                raise
            raise sqlite3.OperationalError(f"{error} by another program, such as an open sqlite3 shell") from error

    @override
    def commit(self) -> None:
        self._connection.execute("commit")
        # Before anybody is told: what lies in a file without a name is not durable.
        self._check_still_there()
        self._is_sound = True

    @override
    def rollback(self) -> None:
        if self._connection.in_transaction:
            with contextlib.suppress(sqlite3.Error):  # the error that led here is the one to tell
                self._connection.execute("rollback")

    @override
    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        return self._connection.execute(sql, parameters).rowcount

    @override
    def execute_many(self, sql: str, rows: Sequence[Sequence[Any]]) -> int:
        return self._connection.executemany(sql, rows).rowcount

    @override
    def query(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        return self._connection.execute(sql, parameters).fetchall()

    @override
    def close(self) -> None:
        try:
            if self._path is not None:
                self._move_or_leave_log()
            self._connection.close()
        finally:
            if self._wal is not None:
                os.close(self._wal)
                self._wal = None
            if self._lock is not None:
                self._lock.release()

    def _move_or_leave_log(self) -> None:
        """Move the log into the file; after a failed write leave it as it is, for the next opening to judge.

        After a failed fsync nobody knows which of the pages that are read back have reached the disk.
        """
        if self._is_sound:
            try:
                self._connection.execute("pragma busy_timeout = 0")  # who reads may go on reading
                self._connection.execute("pragma wal_checkpoint(truncate)")
            except sqlite3.Error as error:
                self._is_sound = False
                _log.warning(
                    "journal %s: its log was not moved into the file: %s; nothing is lost, the next opening does it",
                    self._path,
                    error,
                )
        if not self._is_sound and sys.version_info >= (3, 12):  # before it, closing always moves the log
            self._connection.setconfig(sqlite3.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, True)  # noqa: FBT003 - its own form

    @override
    def compact(self) -> None:
        self._is_sound = False
        self._connection.execute("vacuum")  # through the log: a crash in the midst of it takes it back
        self._is_sound = True

    @override
    def maintain(self) -> None:
        if self._path is None:
            return
        self._check_still_there()
        if not self._is_log_long():
            return
        # Between two groups, so that no commit has to wait for it. It gives way to readers.
        self._is_sound = False
        _, frames, moved = self._connection.execute("pragma wal_checkpoint(passive)").fetchone()
        self._is_sound = True
        # The log begins anew once all of it is moved. Until then a reader holds it up: try again when it has grown.
        self._mark = self._checkpoint_frames if moved == frames else frames + self._checkpoint_frames
        if frames * self._frame_bytes > _LARGE_WAL_BYTES and not self._has_warned:
            self._has_warned = True
            _log.warning(
                "journal %s: its log has grown to %d MB, because another program has been reading it all the while; "
                "end that program's transaction, and the log shrinks by itself",
                self._path,
                frames * self._frame_bytes // 1_000_000,
            )

    def _is_log_long(self) -> bool:
        """Whether the log has come to the mark since it last began anew.

        Its file keeps its size then, and is written over, which is quicker than to let it grow again. What of it is
        new is told by the salts, which each frame repeats from the header (https://sqlite.org/fileformat2.html#walformat).
        """
        if self._wal is None:
            return False
        os.lseek(self._wal, 16, os.SEEK_SET)
        salts = os.read(self._wal, 8)
        os.lseek(self._wal, 32 + (self._mark - 1) * self._frame_bytes + 8, os.SEEK_SET)
        return os.read(self._wal, 8) == salts

    def _check_still_there(self) -> None:
        if self._path is None or self._lock is None:
            return
        if (_identity(self._path), _identity(self._wal_path)) != self._identity:
            raise JournalFileError(str(self._path), "was removed, renamed or replaced while it was in use")
        self._lock.renew()


def connect_to_read(path: Path) -> sqlite3.Connection:
    """Return a connection that cannot change anything; it may be used while another process writes.

    Raises:
        JournalVersionError: If an engine of another version has written the file.
        JournalFileError: If it is no journal, or cannot be read.
    """
    try:
        if not path.exists():
            raise JournalFileError(str(path), "does not exist; run documents with --journal to make one")
        _check_place(path)
        _check_content(path, VERSION)
        resolved = path.resolve()
        if resolved.stat().st_size == 0:
            raise JournalFileError(str(path), "is empty; run documents with --journal to fill it")
        # A file without a log, in a folder that cannot be written, can be read only as one that never changes.
        is_alone = not os.access(resolved.parent, os.W_OK) and not resolved.with_name(f"{resolved.name}-wal").exists()
        connection = _connect_to_read(resolved, is_unchanging=is_alone)
    except (OSError, ValueError, sqlite3.Error) as error:
        raise JournalFileError(str(path), _reason(error)) from error
    try:
        version = _version(connection, path)
        if version != VERSION:
            raise JournalVersionError(str(path), version, VERSION)
    except sqlite3.Error as error:
        connection.close()
        raise JournalFileError(str(path), _reason(error)) from error
    except BaseException:
        connection.close()
        raise
    return connection


def _connect_to_read(path: Path, *, is_unchanging: bool) -> sqlite3.Connection:
    options = "mode=ro&immutable=1" if is_unchanging else "mode=ro"
    return sqlite3.connect(
        f"{path.resolve().as_uri()}?{options}", uri=True, isolation_level=None, timeout=_OPENING_PATIENCE
    )


def _open(
    path: Path, synchronous: Synchronous, migrations: Sequence[str], connect: Callable[[str], sqlite3.Connection]
) -> sqlite3.Connection:
    if sqlite3.sqlite_version_info < _OLDEST:
        needed = ".".join(map(str, _OLDEST))
        raise JournalFileError(str(path), f"needs SQLite {needed} or later; this Python has {sqlite3.sqlite_version}")
    connection = None
    try:
        if not path.exists() or path.stat().st_size == 0:
            _make(path, migrations, connect)
        connection = connect(str(path))
        version = _version(connection, path)
        if version > len(migrations):
            raise JournalVersionError(str(path), version, len(migrations))
        if connection.execute("pragma journal_mode = wal").fetchone()[0] != "wal":
            raise JournalFileError(str(path), "lies where SQLite can keep no log; use a local disk, or postgresql://")
        connection.execute(f"pragma synchronous = {synchronous}")
        connection.execute("pragma fullfsync = 1")  # on macOS a plain fsync does not reach the disk
        connection.execute("pragma checkpoint_fullfsync = 1")
        connection.execute("pragma wal_autocheckpoint = 0")  # we do it ourselves, and see it fail
        connection.execute(f"pragma journal_size_limit = {_KEPT_WAL_BYTES}")
        connection.execute("pragma foreign_keys = on")
        if version < len(migrations):
            _back_up(connection, path, version, connect)
            _run(connection, version, migrations)
        # Tells now whether it can be written: where it can only be read, a transaction that does nothing would succeed.
        connection.execute("begin immediate")
        connection.execute(f"pragma user_version = {len(migrations)}")
        connection.execute("commit")
        connection.execute(f"pragma busy_timeout = {int(_WRITING_PATIENCE * 1000)}")
    except (sqlite3.Error, OSError) as error:
        if connection is not None:
            connection.close()
        raise JournalFileError(str(path), _reason(error)) from error
    except BaseException:
        if connection is not None:
            connection.close()
        raise
    return connection


def _make(path: Path, migrations: Sequence[str], connect: Callable[[str], sqlite3.Connection]) -> None:
    """Make a journal that has all its tables, and only then give it its name."""
    part = path.with_name(f"{path.name}.new")
    for leftover in (part, *_beside(part)):
        leftover.unlink(missing_ok=True)
    _make_private(part)
    connection = None
    try:
        connection = connect(str(part))
        connection.execute(f"pragma page_size = {_PAGE_BYTES}")
        connection.execute("pragma journal_mode = wal")
        connection.execute("pragma fullfsync = 1")
        connection.execute("pragma checkpoint_fullfsync = 1")
        connection.execute("pragma synchronous = full")
        _run(connection, 0, migrations)
        connection.execute("pragma wal_checkpoint(truncate)")
        connection.close()
        # What is left of a removed journal is not the new one's: SQLite would read a log that is not its own.
        for leftover in _beside(path):
            leftover.unlink(missing_ok=True)
        sync_folder(path.parent)
        part.replace(path)
        sync_folder(path.parent)
    except BaseException:
        if connection is not None:
            connection.close()
        with contextlib.suppress(OSError):  # the error that led here is the one to tell
            for leftover in (part, *_beside(part)):
                leftover.unlink(missing_ok=True)
        raise


def _make_private(path: Path) -> None:
    # Documents and replies are nobody else's business.
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))


def _beside(path: Path) -> list[Path]:
    return [path.with_name(f"{path.name}{end}") for end in ("-wal", "-shm", "-journal")]


def _version(connection: sqlite3.Connection, path: Path) -> int:
    """Return the version of a journal's tables.

    Raises:
        JournalFileError: If it is somebody else's database.
    """
    if connection.execute("pragma application_id").fetchone()[0] != APPLICATION_ID:
        raise JournalFileError(str(path), "is a database, but no journal of pipeline_engine; name another file")
    version: int = connection.execute("pragma user_version").fetchone()[0]
    connection.execute("select count(*) from sqlite_master").fetchone()  # reads the file, as far as there are tables
    return version


def _back_up(
    connection: sqlite3.Connection, path: Path, version: int, connect: Callable[[str], sqlite3.Connection]
) -> None:
    """Make a copy of an older file before it is brought up to date."""
    backup = path.with_name(f"{path.name}.v{version}.bak")
    part = path.with_name(f"{backup.name}.new")
    for leftover in (part, *_beside(part)):
        leftover.unlink(missing_ok=True)
    _make_private(part)
    copy = connect(str(part))
    try:
        connection.backup(copy)
        copy.execute("pragma journal_mode = delete")  # one file, without a log beside it
    finally:
        copy.close()
    part.replace(backup)
    sync_folder(path.parent)


def _run(connection: sqlite3.Connection, version: int, migrations: Sequence[str]) -> None:
    """Run the migrations that lie before a file, all in one transaction."""
    connection.execute("begin immediate")
    try:
        for script in migrations[version:]:
            for statement in statements(script, _TYPES):
                is_table = statement.startswith("create table")
                connection.execute(f"{statement} strict" if is_table else statement)
        connection.execute(
            "insert into schema_version(version, applied_at, engine_version) "
            "values(?, cast(strftime('%s', 'now') as real), ?)",
            (len(migrations), engine_version()),
        )
        connection.execute(f"pragma application_id = {APPLICATION_ID}")
        connection.execute(f"pragma user_version = {len(migrations)}")
        connection.execute("commit")
    except BaseException:
        if connection.in_transaction:
            with contextlib.suppress(sqlite3.Error):  # the error that led here is the one to tell
                connection.execute("rollback")
        raise


def _identity(path: Path | str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)  # noqa: PTH116 - twice in each commit, and three times as quick
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _check_place(path: Path) -> None:
    """Raise for a place where a journal cannot lie.

    Raises:
        JournalFileError: With the reason.
    """
    if path.is_dir():
        raise JournalFileError(str(path), "is a folder; name a file in it, such as runs.db")
    if path.is_symlink() and not path.exists():
        raise JournalFileError(str(path), "is a link that leads nowhere; name a file")
    folder = path.parent
    if not folder.is_dir():
        raise JournalFileError(str(path), f"lies in the folder {str(folder)!r}, which does not exist; make it first")
    if path.exists():
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise JournalFileError(str(path), "is no regular file; name another one")
        if _is_for_everybody(folder) and found.st_uid not in (os.geteuid(), 0):
            raise JournalFileError(
                str(path),
                "belongs to somebody else, in a folder where everybody may put files: what is written there may be "
                "theirs to read; name another place",
            )
    kind = _file_system(folder)
    if kind in _NETWORK_FILE_SYSTEMS:
        raise JournalFileError(
            str(path),
            f"lies on a network file system ({kind}), where SQLite's log cannot be shared safely; "
            "use a local disk, or postgresql://",
        )


def _is_for_everybody(folder: Path) -> bool:
    return hasattr(os, "geteuid") and bool(folder.stat().st_mode & stat.S_IWOTH)


def _check_content(path: Path, known: int) -> None:
    """Raise for a file that is no journal, and touch neither it nor its log.

    It is SQLite that looks, as no other reader of the file may come and go in a process that has it open: that
    would take SQLite's locks away (https://sqlite.org/howtocorrupt.html, section 2.2).

    Raises:
        JournalVersionError: If a newer engine has written it.
        JournalFileError: If it is no journal.
    """
    if not path.exists() or path.stat().st_size == 0:
        return
    connection = None
    try:
        connection = _connect_to_read(path, is_unchanging=True)
        version = _version(connection, path)
    except sqlite3.DatabaseError as error:
        if not isinstance(error, sqlite3.OperationalError) and "malformed" in str(error):
            return  # its log may mend it: the opening will tell
        raise JournalFileError(str(path), _reason(error)) from error
    finally:
        if connection is not None:
            connection.close()
    if version > known:
        raise JournalVersionError(str(path), version, known)


def _reason(error: Exception) -> str:
    """Return what an error means for a journal, and what to do."""
    text = error.strerror or str(error) if isinstance(error, OSError) else str(error)
    for sign, reason in _REASONS.items():
        if sign in text:
            return f"{reason} ({text})"
    return f"cannot be used: {text}"


_REASONS = {
    "not a database": "is no SQLite database, or an encrypted one; name another file",
    "malformed": "is damaged; put a copy in its place, or name another file",
    "readonly": "cannot be written; change its permissions, or name another file",
    "unable to open": "cannot be opened; look at its permissions, at those of its folder, and at `ulimit -n`",
    "locked": "is held by another program, such as an open sqlite3 shell; end that program",
    "full": "cannot be used, because its disk is full; make room",
    "No space left": "cannot be used, because its disk is full; make room",
    "Permission denied": "cannot be used, because it or its folder may not be written; change the permissions",
    "Read-only file system": "lies on a read-only file system; name another place",
}


def _file_system(folder: Path) -> str:
    """Return the kind of file system that a folder lies on; empty where nobody can tell."""
    try:
        mounts = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ""
    return file_system_of(str(folder.resolve()), mounts)


def file_system_of(folder: str, mounts: str) -> str:
    """Return the kind of file system that a folder lies on, by the content of Linux's `/proc/self/mounts`.

    Example:
        >>> file_system_of("/home/me/runs", "/dev/sda / ext4 rw 0 0" + chr(10) + "box:/ /home nfs4 rw 0 0")
        'nfs4'
    """
    best, kind = "", ""
    for line in mounts.splitlines():
        fields = line.split(" ")
        if len(fields) < 3:
            continue
        mount = fields[1]
        for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
            mount = mount.replace(code, character)
        is_above = folder == mount or folder.startswith(mount.rstrip("/") + "/")
        if is_above and len(mount) >= len(best):  # a later one hides an earlier one at the same place
            best, kind = mount, fields[2]
    return kind

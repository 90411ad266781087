"""Which runs of a batch are kept in full: those that somebody will look at, as many as there is room for."""

from pipeline_engine.report.kept import KeptTraces


class Run:
    """As much of a trace as matters here."""

    def __init__(self, name, makespan=1.0, status="completed", spans=5):
        self.name = name
        self.makespan = makespan
        self.status = status
        self.spans = (None,) * spans


def kept(runs, max_spans):
    traces = KeptTraces(max_spans)
    for run in runs:
        traces.add(run)
    return [run.name for run in traces.result()]


def test_few_runs_are_all_kept_in_their_order():
    """A report of ten documents that lacks one would be a puzzle."""
    assert kept([Run(number) for number in range(10)], 50) == list(range(10))


def test_the_slowest_and_the_failed_stay_and_the_others_are_a_random_sample():
    """Out of a million runs these are the ones that are looked for."""
    runs = [Run(number, makespan=1 + number % 7) for number in range(10_000)]
    runs += [Run(f"slow {number}", makespan=100 + number) for number in range(100)]
    runs[500:500] = [Run(f"failed {number}", status="failed") for number in range(120)]

    names = kept(runs, 5 * 400)

    assert len(names) == 400
    assert [name for name in names if str(name).startswith("slow")] == [f"slow {number}" for number in range(100)]
    assert set(range(100)) <= {int(str(name).split()[1]) for name in names if str(name).startswith("failed")}
    sampled = [name for name in names if isinstance(name, int)]
    assert len(sampled) >= 190
    assert min(sampled) < 1000  # from all over the batch
    assert max(sampled) > 9000


def test_the_same_runs_leave_the_same_sample():
    """Two looks at one journal show the same page."""
    runs = [Run(number) for number in range(3000)]
    assert kept(runs, 600) == kept(runs, 600)


def test_memory_is_bounded_even_if_every_run_is_large_and_one_always_stays():
    """A run with a hundred thousand items is shown, but not a hundred of them."""
    assert kept([Run(0, spans=1000)], 100) == [0]
    assert len(kept([Run(number, status="failed", spans=40) for number in range(50)], 100)) == 2
    assert len(kept([Run(number, makespan=number, spans=40) for number in range(50)], 100)) == 2

"""Which stored run stands for a record: rules that hold for any stored runs, in whatever order they are read."""

import random
from collections.abc import Callable
from dataclasses import replace

import pytest

from pipeline.system import processes
from pipeline.tracking import runs as plain
from pipeline.tracking.decision import Decision, Kind, Repeat, decide, ranked
from pipeline.tracking.runs import StoredRun

SEEDS = range(300)
HERE, ELSEWHERE = "here", "elsewhere"


@pytest.fixture(autouse=True)
def _alive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "is_alive", lambda tags, _: tags["pid"] == "alive")


def stored(number: int, bits: str, made_with: str = HERE, status: str = plain.FINISHED, **tags: str) -> StoredRun:
    """Make a run whose weights are `bits`: those that begin alike are equal within rounding."""
    own = {"role": "run", "pid": "dead", "weights_md5": bits, "kernels": made_with, **tags}
    run = StoredRun(f"{number:032x}", "", status, number, number + 1, "", own, {}, {}, ())
    return replace(run, tags={**own, "seal": run.sealed.seal()}) if run.is_complete else run


def altered(run: StoredRun) -> StoredRun:
    return replace(run, metrics={"train/mse": 0.5})


def repeat(bits: str, made_with: str = HERE) -> Repeat:
    return Repeat(
        lambda run: run.tags["weights_md5"] == bits,
        lambda run: run.tags["kernels"] != made_with,
        lambda run: run.tags["weights_md5"][0] == bits[0],
    )


def history(chance: random.Random) -> list[StoredRun]:
    """Draw the runs of one fingerprint, earliest first, as stages, kills and other machines may leave them."""
    runs: list[StoredRun] = []
    for number in range(chance.randrange(7)):
        status = chance.choice([plain.FINISHED, plain.FINISHED, plain.RUNNING, plain.KILLED])
        bits, made_with = chance.choice(["a1", "a2", "b1", "c1"]), chance.choice([HERE, ELSEWHERE])
        tags = {"pid": chance.choice(["dead", "alive"]), "data": chance.choice(["own", "other"])}
        complete = [one for one in runs if one.is_complete]
        if complete and chance.random() < 0.5:
            tags["contradicts"] = chance.choice(complete).run_id
        run = stored(number, bits, made_with, status, **tags)
        runs.append(altered(run) if run.is_complete and chance.random() < 0.2 else run)
    return runs


def may_resume(run: StoredRun) -> bool:
    return run.tags["data"] == "own"


@pytest.mark.parametrize("seed", SEEDS)
def test_what_is_decided_follows_from_what_is_stored(seed: int) -> None:
    runs = history(random.Random(seed))
    found = decide(runs, repeat("a1"), may_resume)
    complete = [run for run in runs if run.is_complete and run.seal_state == "sealed"]
    begun = [run for run in runs if not run.is_complete and may_resume(run)]
    same = [run for run in complete if run.tags["weights_md5"] == "a1"]
    close = [run for run in complete if run.tags["weights_md5"] == "a2" and run.tags["kernels"] == ELSEWHERE]
    if same or close:
        assert (found.kind, found.contradicts) == (Kind.SAME if same else Kind.CLOSE, "")
        assert found.run in (same or close)
    elif complete:
        first = min(complete, key=lambda run: ("contradicts" in run.tags, run.start))
        beside = [run for run in begun if run.tags.get("contradicts") == first.run_id]
        left = [run for run in beside if run.status == plain.KILLED or run.tags["pid"] == "dead"]
        assert (found.kind, found.contradicts) == (Kind.RESUME if left else Kind.STORE, first.run_id)
        assert found.run in left if left else found.run is None
    elif begun:
        assert found.kind is (Kind.BUSY if found.run and found.run.is_at_work else Kind.RESUME)
        assert found.run in begun
    else:
        assert found == Decision(Kind.STORE)


@pytest.mark.parametrize("seed", SEEDS)
def test_one_decision_is_taken_and_only_a_sound_complete_run_stands(seed: int) -> None:
    runs = history(random.Random(seed))
    found = decide(runs, repeat("a1"), may_resume)
    assert (found.standing is not None) + found.is_lacking + (found.kind is Kind.BUSY) == 1
    assert found.run is None or (found.run in runs and found.run.seal_state != "altered")
    assert found.standing is None or found.standing.is_complete
    assert not found.contradicts or found.is_lacking


@pytest.mark.parametrize("seed", SEEDS)
def test_neither_the_order_of_the_runs_nor_an_altered_one_decides_anything(seed: int) -> None:
    chance = random.Random(seed)
    runs = history(chance)
    found = decide(runs, repeat("a1"), may_resume)
    assert decide(ranked(runs), repeat("a1"), may_resume) == found
    runs.append(altered(stored(99, chance.choice(["a1", "a2", "b1"]), ELSEWHERE)))
    for _ in range(3):
        chance.shuffle(runs)
        assert decide(runs, repeat("a1"), may_resume) == found


def carry_out(runs: list[StoredRun], bits: str, kill: bool) -> list[StoredRun]:
    """Do what is decided of a record: nothing, or begin or resume a run, and end it unless the process is killed."""
    found = decide(runs, repeat(bits), lambda _: True)
    if not found.is_lacking:
        return runs
    contradicts = found.run.tags.get("contradicts", "") if found.run else found.contradicts
    number = found.run.start if found.run else len(runs)
    status = plain.RUNNING if kill else plain.FINISHED
    made = stored(number, bits, status=status, **({"contradicts": contradicts} if contradicts else {}))
    return [*(run for run in runs if run.run_id != made.run_id), made]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_record_is_stored_once_however_often_it_is_repeated_and_its_stages_are_killed(seed: int) -> None:
    chance, runs = random.Random(seed), list[StoredRun]()
    for _ in range(8):
        bits = chance.choice(["a1", "b1", "c1"])
        for _ in range(chance.randrange(3)):
            runs = carry_out(runs, bits, kill=True)
        runs = carry_out(runs, bits, kill=False)
        assert decide(runs, repeat(bits)).kind is Kind.SAME
        assert sum(run.tags["weights_md5"] == bits for run in runs) == 1
    assert all(run.is_complete for run in runs)  # what a killed process left was resumed, also beside another
    assert sum("contradicts" not in run.tags for run in runs) == 1


@pytest.mark.parametrize(
    ("bits", "made_with", "kind"),
    [
        ("a1", HERE, Kind.SAME),
        ("a1", ELSEWHERE, Kind.SAME),
        ("a2", ELSEWHERE, Kind.CLOSE),
        ("a2", HERE, Kind.STORE),  # one machine always makes the same bits
        ("b1", ELSEWHERE, Kind.STORE),
    ],
)
def test_rounding_explains_only_what_another_machine_made(bits: str, made_with: str, kind: Kind) -> None:
    first = stored(1, "a1")
    found = decide([first], repeat(bits, made_with))
    assert (found.kind, found.contradicts) == (kind, first.run_id if kind is Kind.STORE else "")


def test_before_training_a_complete_run_is_known_and_an_unfinished_one_is_resumed() -> None:
    assert decide([]) == Decision(Kind.STORE)
    begun, first = stored(1, "b1", status=plain.KILLED), stored(2, "a1")
    assert decide([begun, first], None, lambda _: True) == Decision(Kind.KNOWN, first)
    assert decide([begun], None, lambda _: True) == Decision(Kind.RESUME, begun)
    assert decide([begun], None) == Decision(Kind.STORE)


@pytest.mark.parametrize(
    ("same", "differ", "questions"),
    [(True, True, ["same"]), (False, False, ["same", "differ"]), (False, True, ["same", "differ", "close"])],
)
def test_each_question_is_asked_only_where_it_decides(same: bool, differ: bool, questions: list[str]) -> None:
    asked: list[str] = []

    def answering(name: str, answer: bool) -> Callable[[StoredRun], bool]:
        def answered(_: StoredRun) -> bool:
            asked.append(name)
            return answer

        return answered

    record = Repeat(answering("same", same), answering("differ", differ), answering("close", True))
    decide([stored(1, "a1")], record)
    assert asked == questions

"""One worker at a time has a claim: of those that come at once one, whoever of them dies, wherever they are."""

import os
import signal
import threading
import time
from dataclasses import replace

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.kills import ended, forked
from nlptransfer import claims, files
from nlptransfer.claims import Claims, clear, holder_of
from nlptransfer.errors import StorageError
from nlptransfer.locks import Holder

ME = Holder.of_this_process()
DEAD = replace(ME, pid=2**22 + 1)
ELSEWHERE = replace(ME, host="node-7", pid=12)


@pytest.fixture
def place(tmp_path):
    return tmp_path / ".part.parquet.claim"


@pytest.fixture
def alive():
    """A process of this machine that is there for sure."""
    parent = psutil.Process(os.getppid())
    return replace(ME, pid=parent.pid, started=parent.create_time())


def hold(place, holder):
    place.mkdir(exist_ok=True)
    (file := place / claims._name_of(holder)).touch()
    return file


def is_free(place, worker=None):
    with (worker or Claims(60)).claimed(place) as claim:
        return claim is not None


def test_a_claim_is_held_and_leaves_nothing(place, alive):
    with Claims(60).claimed(place) as claim:
        assert (holder_of(place).pid, holder_of(place).host) == (os.getpid(), ME.host) and not claim.is_lost
        assert len([*place.iterdir()]) == 1 and not is_free(place)
    assert not [*place.parent.iterdir()] and holder_of(place) is None
    hold(place, alive)
    assert not is_free(place) and holder_of(place) == replace(alive, since=holder_of(place).since)
    clear(place)
    clear(place)
    assert not [*place.parent.iterdir()]


def test_an_error_releases_it(place):
    with pytest.raises(KeyboardInterrupt), Claims(60).claimed(place):
        raise KeyboardInterrupt
    assert not [*place.parent.iterdir()]


def test_the_claim_of_a_process_that_has_ended_is_taken_over(place, caplog):
    caplog.set_level("INFO", "nlptransfer")
    for holder in (DEAD, replace(ME, started=1e9)):
        hold(place, holder)
        assert is_free(place)
        assert caplog.messages[-1] == f"{place}: taken over from {holder}"
    # It was killed after its claim, but before the folder of that, was removed.
    place.mkdir()
    assert is_free(place) and not [*place.parent.iterdir()]


def test_a_claim_of_elsewhere_is_taken_over_once_it_is_not_renewed(place, tmp_path):
    left, other = (
        f".part.parquet.nlptransfer-{files._machine('node-7')}-{pid}-{ME.started:.0f}-abcdefgh" for pid in (12, 13)
    )
    (tmp_path / left).touch()
    (tmp_path / other).touch()
    file, worker = hold(place, ELSEWHERE), Claims(0.2)
    # What its clock says is of no use: only that it stays as it is.
    os.utime(file, (0, 0))
    assert not is_free(place, worker)
    time.sleep(0.25)
    os.utime(file, (5, 5))
    assert not is_free(place, worker)
    assert not is_free(place)
    time.sleep(0.25)
    assert not is_free(place), "seen for a moment alone by this one"
    assert is_free(place, worker)
    assert [path.name for path in tmp_path.iterdir()] == [other]


def test_a_claim_that_is_held_is_renewed(place, monkeypatch):
    watching, renewed = Claims(0.4), []
    with Claims(0.4).claimed(place):
        # As if it were of a machine that cannot be looked at.
        monkeypatch.setattr(Holder, "has_ended", False)
        for _ in range(8):
            assert not is_free(place, watching)
            renewed.append(next(place.iterdir()).stat().st_mtime_ns)
            time.sleep(0.1)
    assert len({*renewed}) > 2


def test_one_that_was_taken_for_dead_sees_it_and_leaves_the_other_its_claim(place, alive):
    with Claims(60).claimed(place) as claim:
        os.rename(next(place.iterdir()), place / claims._name_of(alive))
        assert claim.is_lost
    assert holder_of(place).pid == alive.pid


@pytest.mark.parametrize("before", [None, DEAD], ids=["free", "dead"])
def test_of_many_that_come_at_once_one_gets_it(before, place, tmp_path):
    for number in range(8):
        here = tmp_path / f"{number}.claim"
        if before is not None:
            hold(here, before)
        start = time.time() + 0.03

        def work(here=here, start=start):
            worker, tries = Claims(60), 0
            time.sleep(max(0, start - time.time()))
            while tries < 3:
                with worker.claimed(here) as claim:
                    if claim is not None:
                        # Until it is killed: what it holds stays there for the others to see.
                        time.sleep(60)
                tries += 1

        children = [forked(work, tmp_path / "log") for _ in range(4)]
        give_up, over = time.monotonic() + 30, {}
        while len(over) < 3:
            assert time.monotonic() < give_up and len(over) < 4, (tmp_path / "log").read_text()
            for child in {*children} - over.keys():
                if (done := os.waitpid(child, os.WNOHANG))[0]:
                    over[child] = os.waitstatus_to_exitcode(done[1])
        (winner,) = {*children} - over.keys()
        assert [*over.values()] == [0, 0, 0] and holder_of(here).pid == winner
        os.kill(winner, signal.SIGKILL)
        assert ended(winner) == -signal.SIGKILL
        assert is_free(here) and not here.exists()


def test_threads_of_one_process_do_not_share_a_claim(place):
    taken, both = [], threading.Barrier(4)

    def work():
        worker = Claims(60)
        both.wait()
        with worker.claimed(place) as claim:
            taken.append(claim is not None)
            both.wait()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == [False, False, False, True]


@given(
    st.builds(
        Holder,
        host=st.text(st.characters(codec="utf-8"), min_size=1, max_size=20),
        pid=st.integers(1, 2**22),
        started=st.floats(0, 2e9),
        since=st.just(ME.since),
    )
)
def test_a_name_says_all_of_its_holder(holder):
    name = claims._name_of(holder)
    assert claims._read(name) == holder and "/" not in name


@pytest.mark.parametrize("name", ["notes.txt", "a_b_c_d", "1_2_inf_host"])
def test_what_is_no_claim_is_taken_over_when_it_stays(name, place):
    place.mkdir()
    (place / name).touch()
    worker = Claims(1e-9)
    assert holder_of(place) is None and not is_free(place, worker) and is_free(place, worker)


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "out").touch()
    with pytest.raises(StorageError, match="move it away"), Claims(60).claimed(tmp_path / "out" / ".x.claim"):
        pass

"""Signals set a flag inside the block and mean what they meant before outside it."""

import os
import signal
import threading

import pytest

from dbrun.errors import Interrupted
from dbrun.run import signals
from dbrun.run.signals import HANDLED_SIGNALS, stop_signals, stop_signum


@pytest.mark.parametrize("number", HANDLED_SIGNALS)
def test_a_signal_is_heard_and_the_handlers_come_back(number):
    before = [signal.getsignal(n) for n in HANDLED_SIGNALS]
    with stop_signals() as flag:
        assert stop_signum(flag) == 0
        os.kill(os.getpid(), number)
        assert stop_signum(flag) == number
    assert [signal.getsignal(n) for n in HANDLED_SIGNALS] == before


def test_the_second_signal_does_not_wait():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(Interrupted) as stopped, stop_signals() as flag:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop_signum(flag) == signal.SIGTERM
        os.kill(os.getpid(), signal.SIGINT)
    assert stopped.value.exit_code == 128 + signal.SIGTERM
    assert signal.getsignal(signal.SIGINT) is before


def test_two_sigterm_of_one_stop_are_one(monkeypatch):
    with stop_signals() as flag:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop_signum(flag) == signal.SIGTERM
    monkeypatch.setattr(signals, "SECONDS_OF_ONE_STOP", 0.0)
    with pytest.raises(Interrupted), stop_signals():
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)


def test_a_flag_that_a_thread_sets_counts_as_ctrl_c():
    flag = threading.Event()
    assert stop_signum(flag) == stop_signum(None) == 0
    flag.set()
    assert stop_signum(flag) == signal.SIGINT

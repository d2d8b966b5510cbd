import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from chat.run import TABLE, IllegalTransition, Transition, transition
from models.run import ACTIVE, RunStatus

ENDS = {
    Transition.COMPLETE: RunStatus.COMPLETED,
    Transition.FAIL: RunStatus.FAILED,
    Transition.CANCEL: RunStatus.CANCELLED,
    Transition.INTERRUPT: RunStatus.INTERRUPTED,
}


@pytest.mark.parametrize("event", [Transition.FAIL, Transition.CANCEL, Transition.INTERRUPT])
@pytest.mark.parametrize("status", ACTIVE)
def test_an_active_run_can_fail_and_be_stopped(status: RunStatus, event: Transition) -> None:
    assert transition(status, event) is ENDS[event]


def test_a_run_starts_once_and_completes_only_when_started() -> None:
    assert transition(RunStatus.QUEUED, Transition.START) is RunStatus.RUNNING
    assert transition(RunStatus.RUNNING, Transition.COMPLETE) is RunStatus.COMPLETED
    for status, event in ((RunStatus.RUNNING, Transition.START), (RunStatus.QUEUED, Transition.COMPLETE)):
        with pytest.raises(IllegalTransition):
            transition(status, event)


@pytest.mark.parametrize("status", [status for status in RunStatus if status not in ACTIVE])
@pytest.mark.parametrize("event", Transition)
def test_an_ended_run_stays_as_it_ended(status: RunStatus, event: Transition) -> None:
    with pytest.raises(IllegalTransition, match=f"{status} cannot {event.name}"):
        transition(status, event)


@given(status=st.sampled_from(RunStatus), event=st.sampled_from(Transition))
def test_every_pair_is_in_the_table_or_illegal(status: RunStatus, event: Transition) -> None:
    if (status, event) in TABLE:
        assert transition(status, event) is TABLE[status, event]
    else:
        with pytest.raises(IllegalTransition):
            transition(status, event)


class RunLife(RuleBasedStateMachine):
    """Whatever is tried in whatever order: at most one start and one end, and what is illegal changes nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.status = RunStatus.QUEUED
        self.taken: list[Transition] = []

    @rule(event=st.sampled_from(Transition))
    def attempt(self, event: Transition) -> None:
        before = dict(TABLE)
        try:
            self.status = transition(self.status, event)
        except IllegalTransition:
            assert (self.status, event) not in TABLE
        else:
            self.taken.append(event)
        assert before == TABLE

    @invariant()
    def is_where_its_history_leads(self) -> None:
        assert self.taken.count(Transition.START) <= 1
        ends = [event for event in self.taken if event in ENDS]
        assert len(ends) <= 1
        if ends:
            assert self.taken[-1] is ends[0]
            assert self.status is ENDS[ends[0]]
        else:
            assert self.status is (RunStatus.RUNNING if self.taken else RunStatus.QUEUED)


TestRunLife = RunLife.TestCase

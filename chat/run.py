"""A run's life as a table: state and event give the next state; what is not in it is illegal and changes nothing."""

from enum import Enum, auto

from models.run import RunStatus


class Transition(Enum):
    """What can happen to a run."""

    START = auto()
    COMPLETE = auto()
    FAIL = auto()
    CANCEL = auto()
    INTERRUPT = auto()


class IllegalTransition(Exception):
    """A bug of ours: the run cannot do this from where it is."""


TABLE = {
    (RunStatus.QUEUED, Transition.START): RunStatus.RUNNING,
    (RunStatus.QUEUED, Transition.FAIL): RunStatus.FAILED,
    (RunStatus.QUEUED, Transition.CANCEL): RunStatus.CANCELLED,
    (RunStatus.QUEUED, Transition.INTERRUPT): RunStatus.INTERRUPTED,
    (RunStatus.RUNNING, Transition.COMPLETE): RunStatus.COMPLETED,
    (RunStatus.RUNNING, Transition.FAIL): RunStatus.FAILED,
    (RunStatus.RUNNING, Transition.CANCEL): RunStatus.CANCELLED,
    (RunStatus.RUNNING, Transition.INTERRUPT): RunStatus.INTERRUPTED,
}


def transition(status: RunStatus, event: Transition) -> RunStatus:
    """The state that follows.

    Raises:
        IllegalTransition: the pair is not in the table.
    """
    try:
        return TABLE[status, event]
    except KeyError:
        raise IllegalTransition(f"{status} cannot {event.name}") from None

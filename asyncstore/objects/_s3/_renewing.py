"""What to do when a server refuses keys or the time of a signature: the request was not carried out."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from asyncstore.objects._errors import RefusedKeysError, SkewedError, UnexplainedError

if TYPE_CHECKING:
    from asyncstore.aws.clock import ServerClock
    from asyncstore.aws.credentials import Credentials

__all__ = ["ATTEMPTS", "REFUSALS", "Refusal", "asks_for_keys", "is_doubtful"]

ATTEMPTS = 3
"""Most attempts of one request whose keys are refused: the second ones may expire on the way, too."""

REFUSALS = (RefusedKeysError, SkewedError, UnexplainedError)
Refusal: TypeAlias = "RefusedKeysError | SkewedError | UnexplainedError"


def asks_for_keys(refusal: Refusal, used: Credentials, clock: ServerClock) -> bool:
    """
    Tell whether other keys are needed to make the request again; otherwise the clock has been set right.

    Raises:
        AsyncStoreError: the refusal itself, if there is no point in making it again.
    """
    if isinstance(refusal, SkewedError):
        if refusal.server_s is None:
            raise refusal
        # That it knew already says nothing: another request may have been refused at the same time.
        clock.learn(refusal.server_s)
        return False
    if isinstance(refusal, UnexplainedError) and used.token is None:
        # Keys that last are not what it is about.
        raise refusal
    return True


def is_doubtful(refusal: Refusal) -> bool:
    """Tell whether something else than the keys may be the reason, so that others go on with them."""
    return isinstance(refusal, UnexplainedError)

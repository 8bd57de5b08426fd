"""Keys for one moment."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from datetime import datetime

__all__ = ["Credentials"]


@dataclass(frozen=True, slots=True)
class Credentials:
    """Keys for one moment; secrets stay out of ``repr``, and out of pickles, since those have none of the rest."""

    access_key_id: str
    secret_access_key: str = field(repr=False)
    token: str | None = field(default=None, repr=False)
    expires_at: datetime | None = None
    """When they cease to work, UTC by the clock of whoever gave them; ``None`` means not foreseeably."""

    def __reduce__(self) -> NoReturn:
        raise TypeError("credentials are not pickled: pickle their provider, which looks for them anew")

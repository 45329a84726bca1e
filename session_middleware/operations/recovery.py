"""A damaged session is made whole again: what could be read, the rest set aside."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from session_middleware.backends.capabilities import Salvaged, Salvaging
from session_middleware.errors import SessionDataError
from session_middleware.operations.base import OperationsBase
from session_middleware.record import Record, SessionId, next_generation
from session_middleware.salvage import salvage_values
from session_middleware.session import Session
from session_middleware.values import Values, encode_value

__all__ = ["SET_ASIDE", "RecoveryOperations"]

SET_ASIDE: Final = "damaged:"
"""And its key: what could not be read, as bytes. With no key: what belongs to none."""


class RecoveryOperations(OperationsBase):
    """What an operator does about a row that cannot be decoded."""

    async def recover_session(self, session_id: str) -> Session | None:
        """The live session of this id, made whole if it was damaged; None if there is none.

        Values that cannot be read are kept as bytes under `"damaged:" + key`. Where the facts beside the
        values are lost, they begin anew: the idle timeout now, and the secret, so that its cookie opens it no
        more. Raises `ConfigurationError` where the backend cannot do this, `BackendError`.
        """
        now, id_ = self._core.clock(), self._id(session_id)
        if await self._is_whole(id_, now):
            return await self.get_session(session_id)
        if not isinstance(self._port, Salvaging):
            raise self._lacks("recover damaged sessions")
        salvaged = await self._port.salvage(id_, now)
        if salvaged is None:
            return None
        record, lost = self._mended(id_, salvaged, now)
        if await self._port.mend(record, salvaged):
            self._emit(
                "session_data_saved",
                record.id,
                record.user_id,
                now,
                saved_keys=sorted(record.data),
                deleted_keys=lost,
            )
        return await self.get_session(session_id)

    # --- inside ---

    async def _is_whole(self, id_: SessionId, now: float) -> bool:
        """Also where nothing is stored."""
        try:
            answer = await self._port.load(id_, now)
        except SessionDataError:
            return False
        return not isinstance(answer, Record) or self._session(answer, now) is not None

    def _mended(self, id_: SessionId, salvaged: Salvaged, now: float) -> tuple[Record, list[str]]:
        """A whole record, and the keys that were lost."""
        kept, rest = salvage_values(salvaged.packed)
        aside = {f"{SET_ASIDE}{name}": encode_value(name, value) for name, value in rest.items()}
        anew = self._anew(salvaged.fields, now)
        facts = {**anew, **salvaged.fields}
        facts["version"] = facts.get("version", 0) + 1
        if "created_at" not in salvaged.fields:  # else it would outlive an epoch that ended it
            facts |= {name: anew[name] for name in ("secret", "generation", "floors")} | {"accepted": {}}
        return Record(**{**facts, "id": id_, "data": Values.of(kept | aside)}), sorted(rest)

    def _anew(self, fields: Mapping[str, Any], now: float) -> dict[str, Any]:
        """The facts that a record must have, as they are where they were lost."""
        policy = self._core.policy
        generation = next_generation(0, now)
        idle = policy.idle(fields.get("idle_timeout"))
        limit = fields.get("limit", now + policy.absolute_timeout)
        return {
            "secret": self._performer.mint()[1],
            "generation": generation,
            "floors": (generation,),
            "created_at": now,
            "last_seen_at": now,
            "limit": limit,
            "deadline": min(now + idle, limit),
        }

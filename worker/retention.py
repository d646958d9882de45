"""Runs retention in the reaper's turn, for the settings that limit how long anything is kept."""

from datetime import timedelta

from sqlalchemy import Engine

from app.db.session import transaction
from app.queue import retention
from app.queue.retention import Position
from app.settings import Settings


class Retention:
    """Deletes a batch of each kind at each call; a new worker looks at everything once again."""

    def __init__(self, database: Engine, settings: Settings) -> None:
        self._database = database
        self._settings = settings
        self._events = self._versions = Position()

    def run(self) -> None:
        """Delete a batch of everything that has aged out, unless another worker does so at this moment."""
        settings = self._settings
        events, versions = self._events, self._versions
        with transaction(self._database) as session:
            if not retention.take_turn(session):
                return
            if settings.keep_events_days is not None:
                events = retention.trim_events(session, timedelta(days=settings.keep_events_days), events)
            if settings.keep_versions is not None:
                versions = retention.delete_superseded(session, settings.keep_versions, versions)
            if settings.keep_failed_days is not None:
                retention.delete_unsuccessful(session, timedelta(days=settings.keep_failed_days))
            retention.delete_kept_texts(session, timedelta(days=settings.keep_texts_days))
        self._events, self._versions = events, versions

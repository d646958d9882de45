"""Background work begins between requests, or when it has waited long enough."""

import asyncio
import math

from app.fairness.background import Foreground


def test_background_work_waits_until_the_last_request_has_ended() -> None:
    async def main() -> None:
        foreground = Foreground(math.inf)
        await foreground.background_turn()
        with foreground.request():
            with foreground.request():
                turn = asyncio.create_task(foreground.background_turn())
                await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert not turn.done()
        await asyncio.wait_for(turn, 30)

    asyncio.run(main())


def test_background_work_does_not_begin_if_another_request_has_begun_meanwhile() -> None:
    async def main() -> None:
        foreground = Foreground(math.inf)
        with foreground.request():
            turn = asyncio.create_task(foreground.background_turn())
            await asyncio.sleep(0)
        with foreground.request():
            for _ in range(3):
                await asyncio.sleep(0)
            assert not turn.done()
        await asyncio.wait_for(turn, 30)

    asyncio.run(main())


def test_background_work_begins_in_a_service_that_is_never_idle() -> None:
    async def main() -> None:
        foreground = Foreground(0.01)
        with foreground.request():
            await asyncio.wait_for(foreground.background_turn(), 30)

    asyncio.run(main())

"""Carry one live call: a reader, a writer, at most one speaker. Plumbing only; `conversation` decides."""

import asyncio
import json
import time
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any, assert_never

import structlog

from outbound import relay
from outbound.calls import Call, EndReason, Entry, Kind, ProcessId, SessionId, Status
from outbound.conversation import (
    CancelReply,
    Close,
    Conversation,
    DropSpeech,
    Effect,
    Limits,
    Note,
    Send,
    StartReply,
    Talk,
)
from outbound.ports import BEAT_EVERY, Agent, CallNotFound, Journal, Socket, SocketClosed, Store, StoreUnavailable
from outbound.recall import Deed, Memory, recall

log = structlog.get_logger(__name__)

SEND_WITHIN_S = 10.0
"""A peer that does not take a frame for this long is gone."""
RELEASE_WITHIN_S = 12.0
"""How long calls may take to be handed over, or to say goodbye, when the process stops."""
_GIVE_WAY_WITHIN_S = 0.5


class Outbox:
    """What waits to be written. Speech can be taken back until the writer takes it; all else keeps its order."""

    def __init__(self) -> None:
        self._waiting: deque[relay.Outbound | Close] = deque()
        self._filled = asyncio.Event()
        self._cycle_open = False

    def put(self, message: relay.Outbound | Close) -> None:
        self._waiting.append(message)
        self._filled.set()

    def drop_speech(self) -> str:
        """Takes back the speech that was not written and closes the talk cycle the wire has open, if any.

        Returns the text the wire never saw.
        """
        dropped = "".join(message.token for message in self._waiting if isinstance(message, relay.Text))
        self._waiting = deque(message for message in self._waiting if not isinstance(message, relay.Text))
        if self._cycle_open:
            self._waiting.appendleft(relay.Text(token="", last=True))
            self._filled.set()
        return dropped

    async def filled(self) -> None:
        """Returns when there is something to take."""
        while not self._waiting:
            self._filled.clear()
            await self._filled.wait()

    def take(self) -> relay.Outbound | Close | None:
        """The next message; None if there is none."""
        if not self._waiting:
            return None
        message = self._waiting.popleft()
        if isinstance(message, relay.Text):
            self._cycle_open = not message.last
        return message


class FrameBudget:
    """How many frames a peer may send: so many a second, with a burst of as many again as three seconds bring."""

    def __init__(self, per_second: float, now: float) -> None:
        self._per_second = per_second
        self._burst = 3 * per_second
        self._left = self._burst
        self._at = now

    def spend(self, now: float) -> bool:
        """Whether one more frame may be processed at `now`."""
        self._left = min(self._burst, self._left + (now - self._at) * self._per_second)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class LiveCall:
    """One call whose relay socket is open."""

    def __init__(
        self,
        call: Call,
        *,
        agent: Agent,
        journal: Journal,
        limits: Limits,
        language: str,
        frames_per_second: float,
        clock: Callable[[], datetime],
        keep_opt_out: Callable[[], Coroutine[Any, Any, None]],
        memory: Memory | None = None,
    ) -> None:
        self.call = call
        self.opened_at = clock()
        self.opted_out = memory is not None and memory.opted_out
        self.close_code = 1006
        self.superseded = False
        self.over = asyncio.Event()
        talked_since = memory.opened_at if memory is not None else None
        self._agent = agent
        self._journal = journal
        self._clock = clock
        self._keep_opt_out = keep_opt_out
        # The loop's own clock may count whole milliseconds; ours is read for every turn's latency.
        self._time = time.monotonic
        self._budget = FrameBudget(frames_per_second, self._time())
        self._outbox = Outbox()
        self._conversation = Conversation(
            greeting=call.greeting,
            call_sid=call.call_sid,
            limits=replace(limits, max_duration_s=float(call.max_duration_s)),
            language=language,
            now=self._time(),
            memory=memory,
            talked_s=(clock() - talked_since).total_seconds() if talked_since is not None else 0.0,
        )
        self._tasks = asyncio.TaskGroup()
        self._listening = asyncio.timeout(None)
        self._speaker: asyncio.Task[None] | None = None
        self._intended = 0
        self._intents: dict[str, Deed] = {}
        """Tools that were called and have not told what came of it; one that was cut off never will."""
        self._doubtful = memory.doubtful if memory is not None else ()
        self._done = memory.done if memory is not None else ()
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_at = float("inf")

    @property
    def turns(self) -> int:
        return self._conversation.turns

    @property
    def end_reason(self) -> EndReason | None:
        """Why the talk ended: what the conversation says, else that the callee hung up, if the carrier closed the
        socket in order. None where only the socket is over: the carrier will ask what to do with the line, also in the
        middle of a goodbye.
        """
        if self.close_code == 1000 and not self._conversation.is_handed_over:
            return self._conversation.end_reason or EndReason.CALLEE_HUNG_UP
        return self._conversation.end_reason if self._conversation.has_ended else None

    def give_way(self) -> None:
        """Another socket has the call: this one is closed, and nothing more is written of it."""
        if not self.superseded:
            self.superseded = True
            self._outbox.put(Close(1000, "another socket has the call"))
            with suppress(RuntimeError):  # It has stopped listening and is on its way out.
                self._listening.reschedule(asyncio.get_running_loop().time() + _GIVE_WAY_WITHIN_S)

    def release(self, *, to_successor: bool) -> None:
        """Ends the session at the end of the sentence, for another process to go on, or the call with a goodbye."""
        step = self._conversation.hand_over if to_successor else self._conversation.take_leave
        self._perform(step(self._time()))
        self._rouse()

    async def run(self, socket: Socket) -> None:
        """Talks until the socket is closed, by whichever side. Leaves no task behind."""
        try:
            async with self._tasks:
                writer = self._tasks.create_task(self._write(socket), name="relay-writer")
                self._rouse()
                with suppress(TimeoutError):  # The writer has given the peer up.
                    async with self._listening:
                        self.close_code = await self._read(socket)
                is_lost = self.close_code != 1000 or self._conversation.is_handed_over
                self._perform(self._conversation.hang_up(self._time(), is_lost=is_lost))
                writer.cancel()
        finally:
            if self._alarm is not None:
                self._alarm.cancel()

    async def _read(self, socket: Socket) -> int:
        """Hears every frame as it comes: nothing here waits for the agent. Returns the close code."""
        flooded = False
        while True:
            try:
                frame = await socket.receive()
            except SocketClosed as closed:
                return closed.code
            if self._budget.spend(self._time()):
                flooded = False
                self._perform(self._conversation.hear(relay.parse(frame), self._time()))
                self._rouse()
                continue
            if not flooded:
                flooded = True
                self._note(Note(Kind.FRAME_IGNORED, {"problem": "too many frames"}))
            # A frame that waits in the buffer is received without a pause: other calls must get their turn.
            await asyncio.sleep(0)

    async def _write(self, socket: Socket) -> None:
        """The only task that writes to the socket."""
        try:
            while True:
                await self._outbox.filled()
                # One bound for all that waits: a reply's words come in bursts.
                async with asyncio.timeout(SEND_WITHIN_S):
                    while (message := self._outbox.take()) is not None:
                        if isinstance(message, Close):
                            await socket.close(message.code, message.reason)
                        else:
                            await socket.send(relay.dump(message))
        except SocketClosed:
            pass  # The reader learns the same, with the code.
        except TimeoutError:
            # A close frame would wait behind the others, and a peer that does not read may never send one.
            log.warning("peer takes no frames, given up")
            self._listening.reschedule(asyncio.get_running_loop().time())

    async def _speak(self, start: StartReply) -> None:
        """Brings the agent's words to the conversation, piece by piece."""
        talk = Talk(
            self.call.session_id,
            self.call.greeting,
            self.call.variables,
            start.lines,
            start.language,
            start.resumed,
            tuple(dict.fromkeys((*self._doubtful, *(deed.tool for deed in self._intents.values())))),
            self._done,
        )
        try:
            async with aclosing(self._agent.reply(talk, _TurnLedger(self, start.turn))) as pieces:
                async for piece in pieces:
                    self._perform(self._conversation.say(start.turn, piece, self._time()))
            self._perform(self._conversation.finish(start.turn, self._time()))
        except Exception as error:
            # Whatever the agent's libraries raise, the callee hears a sentence and the call goes on.
            log.warning("reply failed", turn=start.turn, error=type(error).__name__)
            self._perform(self._conversation.fail(start.turn, type(error).__name__, self._time()))
        self._rouse()

    def _perform(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send(message):
                    self._outbox.put(message)
                case Note():
                    self._note(effect)
                case StartReply():
                    self._speaker = self._tasks.create_task(self._speak(effect), name=f"speaker-{effect.turn}")
                case CancelReply():
                    if self._speaker is not None:
                        self._speaker.cancel()
                case DropSpeech():
                    self._conversation.not_sent(self._outbox.drop_speech())
                case Close():
                    self._outbox.put(effect)
                case _:
                    assert_never(effect)

    def _note(self, note: Note) -> None:
        if note.kind is Kind.OPTED_OUT and not self.opted_out:
            self.opted_out = True
            self._tasks.create_task(self._keep_opt_out(), name="keep-opt-out")
        if note.kind is Kind.TURN and note.data["outcome"] in ("finished", "failed"):
            self._done = ()  # The talk itself tells of it now.
        self._write_down(note.kind, note.data)

    def _write_down(self, kind: Kind, data: Mapping[str, Any]) -> None:
        if not self.superseded:
            self._journal.write(Entry(self.call.session_id, self._clock(), kind, data, epoch=self.call.epoch))

    async def intend(self, turn: int, tool: str, arguments: Mapping[str, object]) -> str:
        """Writes down that a tool is about to run. Raises StoreUnavailable where a newer socket has the call."""
        self._intended += 1
        intent = f"{self.call.epoch}.{turn}.{self._intended}"
        try:
            kept: object = json.loads(json.dumps(arguments, allow_nan=False, default=repr))
        except ValueError:
            kept = repr(arguments)  # What JSON cannot say is kept as well as it can be: an intent must not get lost.
        self._intents[intent] = Deed(tool, kept, "")
        self._write_down(Kind.TOOL_CALLED, {"intent": intent, "tool": tool, "arguments": kept})
        try:
            await self._journal.flush()
            if self.superseded:
                raise StoreUnavailable("another socket has the call")
        except BaseException:  # Also where it is cancelled: the tool will not run.
            del self._intents[intent]
            self._write_down(Kind.TOOL_DONE, {"intent": intent, "outcome": None, "in_doubt": False})
            raise
        return intent

    def done(self, intent: str, outcome: str, *, in_doubt: bool) -> None:
        """Writes down what came of it."""
        self._write_down(Kind.TOOL_DONE, {"intent": intent, "outcome": outcome, "in_doubt": in_doubt})
        if not in_doubt:
            self._done += (replace(self._intents.pop(intent), outcome=outcome),)

    def note_closed(self) -> None:
        self._write_down(Kind.RELAY_CLOSED, {"code": self.close_code})

    def _rouse(self) -> None:
        """Sets the alarm for the conversation's next deadline, if that is sooner than the one that is set.

        Deadlines that have moved on are met with a tick that does nothing, and set anew then.
        """
        deadline = self._conversation.deadline()
        if deadline is None or self._alarm_at <= deadline:
            return
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm_at = deadline
        self._alarm = asyncio.get_running_loop().call_later(deadline - self._time(), self._on_alarm)

    def _on_alarm(self) -> None:
        self._alarm, self._alarm_at = None, float("inf")
        self._perform(self._conversation.tick(self._time()))
        self._rouse()


class _TurnLedger:
    """`ports.Ledger` of one reply, in the call's journal."""

    def __init__(self, live: LiveCall, turn: int) -> None:
        self._live = live
        self._turn = turn

    async def intend(self, tool: str, arguments: Mapping[str, object]) -> str:
        return await self._live.intend(self._turn, tool, arguments)

    def done(self, intent: str, outcome: str, *, in_doubt: bool = False) -> None:
        self._live.done(intent, outcome, in_doubt=in_doubt)


class LiveCalls:
    """The calls whose sockets this process holds."""

    def __init__(
        self,
        *,
        process: ProcessId,
        agent: Agent,
        store: Store,
        journal: Journal,
        limits: Limits,
        language: str,
        frames_per_second: float,
        clock: Callable[[], datetime],
    ) -> None:
        self._process = process
        self._agent = agent
        self._store = store
        self._journal = journal
        self._limits = limits
        self._language = language
        self._frames_per_second = frames_per_second
        self._clock = clock
        self._live: dict[SessionId, LiveCall] = {}
        self._is_leaving = False
        self._is_leaving_to: bool | None = None
        """Whether what is released has a successor; None while nothing is."""
        self._doubted: set[SessionId] = set()
        self._doubt = asyncio.Event()
        self._none_live = asyncio.Event()
        self._none_live.set()

    @property
    def by_session(self) -> Mapping[SessionId, LiveCall]:
        return self._live

    async def all_over(self) -> None:
        """Returns when no call is live and all that was said is kept."""
        await self._none_live.wait()

    async def take(self, session_id: SessionId) -> Call | None:
        """Makes this process the one that carries the call, now that a socket opens: the newest socket has it.

        None where there is nothing to talk about any more. Raises StoreUnavailable.
        """
        older = self._live.get(session_id)
        if older is not None:
            older.give_way()
            await older.over.wait()
            # What the older one has noted counts; once the call is taken, the store would refuse it.
            await self._journal.flush()

        def step(call: Call) -> Call:
            # An open relay means somebody answered, whatever callback is still under way.
            answered = call.follow(Status.IN_PROGRESS, self._clock())
            return answered.taken_by(self._process) if answered.is_to_be_talked_on else call

        try:
            call = await self._store.change(session_id, step)
        except CallNotFound:
            return None
        return call if call.is_to_be_talked_on else None

    async def carry(self, call: Call, socket: Socket) -> None:
        """Talks on the accepted socket of a call from `take` until it closes, then writes down what became of it."""
        session_id = call.session_id
        # Two sockets that opened at once were told apart by their epochs: the older one never begins.
        entries = await self._store.journal(session_id)
        while (older := self._live.get(session_id)) is not None:
            if older.call.epoch > call.epoch:
                return await socket.close(1000, "another socket has the call")
            older.give_way()
            await older.over.wait()
            entries = await self._store.journal(session_id)
        # From here to where it is known as live nothing waits: a third socket would slip in between.
        live = LiveCall(
            call,
            agent=self._agent,
            journal=self._journal,
            limits=self._limits,
            language=self._language,
            frames_per_second=self._frames_per_second,
            clock=self._clock,
            keep_opt_out=partial(self._keep_opt_out, session_id),
            memory=recall(entries, call.greeting),
        )
        self._live[session_id] = live
        self._none_live.clear()
        if self._is_leaving_to is not None:
            live.release(to_successor=self._is_leaving_to)
        log.info("talk begins", epoch=call.epoch)
        try:
            await live.run(socket)
        finally:
            try:
                await asyncio.shield(self._keep(live))
            except StoreUnavailable as error:
                log.error("the end of a talk could not be written down", reason=str(error))
            finally:
                if self._live.get(session_id) is live:
                    del self._live[session_id]
                live.over.set()
                if not self._live:
                    self._none_live.set()
                log.info("talk is over", reason=live.end_reason, turns=live.turns, close_code=live.close_code)

    async def keep_beating(self) -> None:
        """Tells the other processes that this one lives, until it is cancelled or about to leave."""
        while not self._is_leaving:
            try:
                await self._store.beat(self._process, self._clock())
            except StoreUnavailable as error:
                log.error("this process cannot say that it lives", reason=str(error))
            await asyncio.sleep(BEAT_EVERY.total_seconds())

    def superseded(self, session_id: SessionId, epoch: int) -> None:
        """The store has refused what an older socket than that of `epoch` had to say."""
        live = self._live.get(session_id)
        if live is not None and live.call.epoch < epoch:
            live.give_way()

    async def leave(self) -> None:
        """Tells the other processes not to count on this one: it is being stopped."""
        self._is_leaving = True
        with suppress(StoreUnavailable):
            await self._store.retire(self._process)

    def written_elsewhere(self, session_id: SessionId) -> None:
        """Another process has written about this call: perhaps it has taken it."""
        if session_id in self._live:
            self._doubted.add(session_id)
            self._doubt.set()

    async def keep_checking(self) -> None:
        """Closes the sockets of calls that another process has taken, until it is cancelled."""
        while True:
            await self._doubt.wait()
            self._doubt.clear()
            while self._doubted:
                session_id = self._doubted.pop()
                with suppress(StoreUnavailable, CallNotFound):
                    call = await self._store.get(session_id)
                    live = self._live.get(session_id)
                    if live is not None and call.epoch > live.call.epoch:
                        live.give_way()

    async def release(self, *, to_successor: bool) -> None:
        """Lets go of every call: each at the end of its sentence, to whoever answers the carrier next, or with a
        goodbye where nobody will. Returns when all sockets are closed, within seconds.
        """
        self._is_leaving_to = to_successor
        for live in list(self._live.values()):
            live.release(to_successor=to_successor)
        with suppress(TimeoutError):
            async with asyncio.timeout(RELEASE_WITHIN_S):
                await self.all_over()

    async def _keep(self, live: LiveCall) -> None:
        if live.superseded:
            if live.opted_out:
                await self._keep_opt_out(live.call.session_id)
            return
        live.note_closed()
        reason = live.end_reason

        def step(call: Call) -> Call:
            call = replace(call, opted_out=call.opted_out or live.opted_out)
            return call.ended_for(reason) if reason is not None and call.epoch == live.call.epoch else call

        await self._store.change(live.call.session_id, step)
        await self._journal.flush()

    async def _keep_opt_out(self, session_id: SessionId) -> None:
        """Writes an opt-out down while the call goes on: no crash may lose it."""
        try:
            await self._store.change(session_id, lambda call: replace(call, opted_out=True))
        except StoreUnavailable:
            log.error("opt-out is not written down yet, it is tried again when the call ends")

"""Calls of a Milvus server, each with a time limit, and what its refusals mean here.

Nothing here imports pymilvus before it is needed: a server whose keys are in FAISS does without.
"""

from __future__ import annotations

import logging
import re
import threading
import weakref
from collections.abc import Callable
from functools import cached_property
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from secondlook.model.errors import StoreError, StoreUnreachableError

logger = logging.getLogger(__name__)

OLDEST = (2, 3)
"""What was tested is 2.3.5: aliases, counts and upserts are all there."""
MAX_K = 16_384
"""The most neighbours, queries and rows that one call of Milvus may ask for."""
CALL_SECONDS = 10.0
"""How long a call may take that is no search: nobody waits for an answer meanwhile."""
WRITE_SECONDS = 120.0
"""How long a call that writes, loads or counts may take; pymilvus waits and repeats while the server asks for less."""
PROBE_SECONDS = 0.5
"""Between two tries to reach a server that does not answer."""

UNREACHABLE = 2
"""pymilvus's code where it cannot connect."""
UNLOADED = (100, 101)
"""Milvus's codes for a collection that is not there, or not in memory."""
REFUSED = re.compile(r"auth\w* (check )?fail|unauthenticated|permission deny", re.IGNORECASE)
"""What it says of a wrong token."""

T = TypeVar("T")


class MilvusSettings(BaseModel):
    """Which Milvus server holds the keys, and what happens without it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    address: Annotated[str, Field(pattern=r"^https?://[^\s/]+$")] = Field(
        description="Address of the Milvus server that holds the keys, such as `http://milvus:19530`."
    )
    token: SecretStr = Field(SecretStr(""), description="Its token, or `user:password`.")
    database: str = Field("default", description="Its database.")
    cache: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,99}$")] = Field(
        "secondlook",
        description="Name of the cache: of the alias there, and what its collections' names begin with. Each cache on "
        "one Milvus server needs its own.",
    )
    timeout_s: float = Field(1.0, gt=0, description="Seconds that a search there may take.")
    when_away: Literal["network", "refuse"] = Field(
        "network",
        description='What is answered while it is unreachable: `network` alone, with `"cache": null`, or `refuse`, '
        "a 503.",
    )
    grace_s: float = Field(
        300.0, ge=0, description="Seconds that a generation's keys are kept there after the generation was removed."
    )


class _Environment(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="SECONDLOOK_", env_nested_delimiter="__", env_ignore_empty=True)

    milvus: MilvusSettings | None = None


def from_environment() -> Milvus | None:
    """The Milvus server that SECONDLOOK_MILVUS__ADDRESS names; None where it names none."""
    settings = _Environment().milvus
    return Milvus(settings) if settings else None


class Milvus:
    """A Milvus server, connected to when it is first needed; safe to use from several threads."""

    def __init__(self, settings: MilvusSettings) -> None:
        self.settings = settings
        self._lock = threading.Lock()

    @property
    def address(self) -> str:
        """Where it is."""
        return self.settings.address

    @cached_property
    def _made(self) -> Any:
        try:
            from pymilvus import MilvusClient
        except ModuleNotFoundError as error:
            raise StoreError(f"keys in Milvus need {error.name}: install secondlook with the milvus extra") from error
        # It logs each failed call with its trace; what is to be said is said here.
        logging.getLogger("pymilvus").setLevel(logging.CRITICAL)
        settings = self.settings
        client = MilvusClient(
            uri=settings.address,
            token=settings.token.get_secret_value(),
            db_name="" if settings.database == "default" else settings.database,
            # Also of connecting anew, which a search does when the connection was lost.
            timeout=settings.timeout_s,
        )
        found = str(client.get_server_version(timeout=CALL_SECONDS))
        numbers = re.match(r"v?(\d+)\.(\d+)", found)
        if numbers is None or (int(numbers[1]), int(numbers[2])) < OLDEST:
            oldest = ".".join(map(str, OLDEST))
            raise StoreError(f"the Milvus server at {self.address} is of version {found}: at least {oldest} is needed")
        return client

    def call(self, method: str, *args: Any, timeout: float = CALL_SECONDS, **options: Any) -> Any:
        """Call the client; ``timeout`` in seconds.

        Raises:
            StoreUnreachableError: no answer came in time, or nothing listens there.
            StoreError: it refuses the token, is too old, or refuses the call.
        """
        return self.run(lambda client: getattr(client, method)(*args, timeout=timeout, **options))

    def run(self, act: Callable[[Any], T]) -> T:
        """Do something with the client.

        Raises:
            StoreUnreachableError, StoreError: as for ``call``.
        """
        try:
            with self._lock:
                client = self._made
            return act(client)
        except (StoreError, StoreUnreachableError):
            raise
        except Exception as error:  # pymilvus's own, gRPC's, and a plain one here and there
            raise self._translated(error) from error

    def _translated(self, error: Exception) -> StoreError | StoreUnreachableError:
        told = _Told.of(error)
        if told.status == "UNAUTHENTICATED" or re.search(REFUSED, told.text):
            return StoreError(f"the Milvus server at {self.address} refuses the token: set SECONDLOOK_MILVUS__TOKEN")
        if told.status == "DEADLINE_EXCEEDED" or "Retry timeout" in told.text:
            return StoreUnreachableError(f"the Milvus server at {self.address} did not answer in time")
        if told.code == UNREACHABLE or told.status or isinstance(error, ValueError):  # a channel that was closed
            return StoreUnreachableError(
                f"no Milvus server answers at {self.address}: start it, or set SECONDLOOK_MILVUS__ADDRESS"
            )
        short = re.sub(r"\s+", " ", told.text).strip()[:200]
        if told.code in UNLOADED:
            return StoreUnreachableError(f"the Milvus server at {self.address} has not loaded the collection: {short}")
        return StoreError(f"the Milvus server at {self.address} refuses: {short}")


class _Told(NamedTuple):
    """What an exception of pymilvus or gRPC says."""

    code: int | None
    """Milvus's."""
    status: str
    """gRPC's; empty where the server answered."""
    text: str

    @classmethod
    def of(cls, error: Exception) -> _Told:
        code = getattr(error, "code", None)
        # What gRPC said of a connection that failed is only in the cause.
        grpc = error if callable(code) else error.__cause__ if code == UNREACHABLE else None
        if grpc is not None and callable(getattr(grpc, "code", None)):
            return cls(UNREACHABLE, grpc.code().name, str(grpc.details()))  # type: ignore[attr-defined]
        return cls(code if isinstance(code, int) else None, "", str(getattr(error, "message", error)))


class Reach:
    """Remembers whether something can be reached: after a failure, calls fail at once until it answers again.

    Live calls never pay for finding out that it is back: a thread of its own tries, until it answers.
    """

    def __init__(self, what: str, probe: Callable[[], object]) -> None:
        """``probe`` is a method that raises what is wrong; of an object that nobody else holds it is asked no more."""
        self._what, self._probe = what, weakref.WeakMethod(probe)
        self._lock = threading.Lock()
        self._why: str | None = None

    @property
    def is_unreachable(self) -> bool:
        """Whether calls fail at once now."""
        return self._why is not None

    def __call__(self, act: Callable[[], T]) -> T:
        """Do something there.

        Raises:
            StoreUnreachableError: it does not answer now.
        """
        why = self._why
        if why is not None:
            raise StoreUnreachableError(why)
        try:
            return act()
        except (StoreUnreachableError, StoreError) as error:
            self.lose(str(error))
            raise StoreUnreachableError(str(error)) from error

    def lose(self, why: str) -> None:
        """Take note that it is unreachable, and try it until it answers."""
        with self._lock:
            if self._why is not None:
                return
            self._why = why
        logger.error("%s is unreachable: %s", self._what, why)
        threading.Thread(target=self._look_out, name="reach", daemon=True).start()

    def _look_out(self) -> None:
        pause = threading.Event()
        while (probe := self._probe()) is not None:
            try:
                probe()
            except Exception as error:  # whatever it is, this thread must go on
                if str(error) != self._why:
                    logger.error("%s is unreachable: %s", self._what, error)
                    self._why = str(error)
            else:
                self._why = None
                logger.warning("%s is reachable again", self._what)
                return
            del probe  # nothing here may hold what nobody else does, nor an error whose trace does
            pause.wait(PROBE_SECONDS)

"""What can go wrong in serving, beside what the model's own family says. ``problems`` maps both to HTTP.

::

    SecondlookError
    └── ServiceError
        ├── QueueFullError           too much is being answered already
        ├── UnavailableError         the batcher is down
        ├── GeometryChangedError     a switch of generations changed how images are brought to the encoder
        ├── ReadOnlyError            the default bundle's folder is never written
        ├── UnknownGenerationError
        ├── UnknownJobError
        ├── RebuildRunningError      one rebuild at a time
        ├── AcceptanceError          a rebuild's result is worse than what answers
        ├── KeysError                the file of keys is wrong
        └── ListenError              the address cannot be listened on
"""

from secondlook.model.errors import SecondlookError


class ServiceError(SecondlookError):
    """Base of the errors of serving."""


class QueueFullError(ServiceError):
    """Too many images or bytes are being answered already; ``retry_after_s`` says when there should be room."""

    def __init__(self, message: str, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class UnavailableError(ServiceError):
    """Nothing computes answers: the batcher was stopped, or died."""


class GeometryChangedError(ServiceError):
    """Images were decoded with another geometry than that of the bundle that should answer."""


class ReadOnlyError(ServiceError):
    """The server uses the default bundle in the package, which is never written."""


class UnknownGenerationError(ServiceError):
    """There is no such generation."""


class UnknownJobError(ServiceError):
    """There is no such job."""


class RebuildRunningError(ServiceError):
    """A rebuild is running already."""


class AcceptanceError(ServiceError):
    """A rebuild's generation is worse than the active one."""


class KeysError(ServiceError):
    """The file of keys cannot be read, or has a line that is none; at start, and never for a client."""


class ListenError(ServiceError):
    """The address cannot be listened on; at start, and never for a client."""

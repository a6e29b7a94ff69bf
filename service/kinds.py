"""The types of problem that a call may be answered with."""

from __future__ import annotations

from enum import Enum


class Kind(Enum):
    """Status, title and an example of each type of problem; its address is made from the name and stays as it is."""

    UNDECODABLE_IMAGE = (
        400,
        "The image cannot be decoded",
        "cat.png: the image is damaged or cut short.",
    )
    IMAGE_TOO_SLOW = (
        400,
        "The image takes too long to decode",
        "cat.png: decoding it takes more than the 5 s of the processor that a request's images may take in all.",
    )
    MALFORMED_REQUEST = (
        400,
        "The request is malformed",
        "The body is not JSON.",
    )
    KEY_MISSING = (
        401,
        "A key is required",
        "This call needs an admin key: send it as Authorization: Bearer KEY.",
    )
    KEY_REFUSED = (
        403,
        "The key is refused",
        "The key is wrong.",
    )
    ADMIN_DISABLED = (
        403,
        "Admin calls are disabled",
        "This server has no admin key: set SECONDLOOK_ADMIN_KEY and restart it.",
    )
    NOT_FOUND = (
        404,
        "Not found",
        "There is nothing at /nothing: /docs lists all calls.",
    )
    METHOD_NOT_ALLOWED = (
        405,
        "The method is not allowed here",
        "PUT is not allowed at /v1/model: allowed is GET, HEAD, OPTIONS.",
    )
    NOT_ACCEPTABLE = (
        406,
        "No form of the answer is accepted",
        "There is no text/csv here: accept application/json or application/octet-stream.",
    )
    TOO_SLOWLY_SENT = (
        408,
        "The request came too slowly",
        "The body did not arrive within 60 s: send less at once, or over a faster connection.",
    )
    REBUILD_RUNNING = (
        409,
        "A rebuild is already running",
        "Job 5f0c2b9d41a7e386 is running: wait for it, or cancel it.",
    )
    BUNDLES_READ_ONLY = (
        409,
        "The bundles cannot be changed",
        "The default bundle cannot be changed: set SECONDLOOK_BUNDLES to a folder and restart.",
    )
    GENERATION_CHANGED = (
        409,
        "Another generation answers",
        "Generation 20261122T101500Z-3f9c does not answer any more: an entry's id may be another image's now.",
    )
    LABEL_LIKE_ANOTHER = (
        409,
        "The label is like a known one",
        "label: it differs from cat only in how it is written: give that one, or another name.",
    )
    NOTHING_TAUGHT = (
        409,
        "Nothing is known yet",
        "nothing is known yet: teach images of a first class, on the server's page or with POST /v1/entries.",
    )
    TOO_MANY_TAUGHT = (
        409,
        "Too many images were taught",
        "50,000 taught images are kept, at most 50,000 are accepted: remove some.",
    )
    BUNDLE_REFUSED = (
        409,
        "The bundle is refused",
        "SECONDLOOK_BUNDLES/20261122T101500Z-3f9c/values.npy is missing.",
    )
    TOO_MANY_BYTES = (
        413,
        "Too many bytes",
        "The request has more than 67,108,864 bytes, which this call takes at most: send less at once.",
    )
    TOO_MANY_PIXELS = (
        413,
        "Too many pixels",
        "cat.png: the image has more pixels than 64,000,000.",
    )
    TOO_MANY_FILES = (
        413,
        "Too many files",
        "The request has more than 64 files: send them in several requests.",
    )
    UNSUPPORTED_MEDIA_TYPE = (
        415,
        "Not an image type",
        "The content type is text/plain: send multipart/form-data with the field file.",
    )
    NOT_BYTES = (
        415,
        "Not rows of numbers",
        "The content type is application/json: send application/octet-stream, as /v1/embed gives it.",
    )
    COMPRESSED_BODY = (
        415,
        "The body is compressed",
        "The body is compressed or coded (Content-Encoding: gzip): send it as it is.",
    )
    HOST_NOT_SERVED = (
        421,
        "The host is not served here",
        "This server does not answer for example.org: add it to SECONDLOOK_ALLOWED_HOSTS and restart it.",
    )
    INVALID_PARAMETER = (
        422,
        "A parameter is wrong",
        "top: Input should be less than or equal to 1000.",
    )
    MISSING_FILE = (
        422,
        "No image was sent",
        "The request has no image: send one or more in the field file.",
    )
    IDEMPOTENCY_KEY_REUSED = (
        422,
        "The Idempotency-Key was used before",
        "The Idempotency-Key was used for other images or another label: give each request its own.",
    )
    QUEUE_FULL = (
        429,
        "Too many images are waiting",
        "512 images are being received or answered already: try again in 2 s.",
    )
    HEADERS_TOO_LARGE = (
        431,
        "The headers are too large",
        "The headers have more than 65,536 bytes: send fewer or shorter ones.",
    )
    INTERNAL = (
        500,
        "The server failed",
        "The server failed on this request; its log says why.",
    )
    NOT_READY = (
        503,
        "Not ready",
        "The server does not compute answers now: try again later.",
    )
    DISK_FULL = (
        507,
        "The disk is full",
        "There is no room to keep what was sent: nothing of it was kept.",
    )
    NOT_KEPT = (
        503,
        "What was sent cannot be kept",
        "taught.sqlite cannot be used: attempt to write a readonly database.",
    )
    TOO_SLOW = (
        503,
        "The answer took too long",
        "No answer within 30 s: try again later, or send fewer images.",
    )

    def __init__(self, status: int, title: str, example: str) -> None:
        self.status, self.title, self.example = status, title, example

    @property
    def slug(self) -> str:
        """Its name in the type's address, in metrics and in logs."""
        return self.name.lower().replace("_", "-")

    @property
    def urn(self) -> str:
        """The problem's type."""
        return "urn:secondlook:problem:" + self.slug

"""A request that gets no answer."""

import math


class Refused(Exception):
    """Why a request is turned away, or ends without an answer.

    Attributes:
        status: the HTTP status that says it: 400, 401, 404, 413, 429, 500, 503 or 504.
        message: for the client.
        retry_after_seconds: when to try again, where that may help.
        code: a word for programs, as OpenAI's API has them.
        param: the field of the request that it is about.
    """

    def __init__(
        self,
        status: int,
        message: str,
        retry_after_seconds: float | None = None,
        code: str | None = None,
        param: str | None = None,
    ):
        super().__init__(message)
        self.status, self.message, self.retry_after_seconds = status, message, retry_after_seconds
        self.code, self.param = code, param

    @property
    def headers(self) -> dict[str, str]:
        """What the response's headers say about it."""
        if self.retry_after_seconds is None:
            return {}
        return {"Retry-After": str(max(1, math.ceil(self.retry_after_seconds)))}

    def as_dict(self) -> dict[str, dict[str, str | None]]:
        """The error in OpenAI's shape."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        if self.status == 429:
            kind = "rate_limit_error"
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

"""TensorFlow Serving's REST interface."""

import base64
import time

import numpy as np
import orjson
import requests
import urllib3

from rfd_tf.files import parse_json
from rfd_tf.serving.transport import (
    Address,
    ClientOptions,
    ServingError,
    TransientServingError,
    Transport,
    one_line,
)

_TRANSIENT = (429, 502, 503, 504)
_REFUSALS = {
    400: "refused the request",
    401: "requires a valid token or certificate",
    403: "does not accept these credentials",
    404: "has no such model, or has not loaded it yet",
}
_NUMBER_BYTES = {"float32": 16, "uint8": 4}  # -1.2345678e-38 and 255, with a comma
_ANSWER_NUMBER_BYTES = 18  # -1.23456789e-05 with a comma and a blank
_CHUNK = 1 << 20
_CONNECT_SECONDS = 10.0  # of a try; the rest of its time is for the answer


class RestTransport(Transport):
    """Requests in TensorFlow Serving's JSON; not to be shared between threads.

    The server returns all outputs, also those that were not asked for. Requests are in row format: in column
    format the server would write each number on a line of its own.

    Args:
        address: of the model.
        options: checked against it.
    """

    def __init__(self, address: Address, options: ClientOptions):
        self._address = address
        self._url = f"http{'s' if address.is_encrypted else ''}://{address.target}{address.rest_path}"
        self._max_message_bytes = options.max_message_bytes
        self._session = requests.Session()
        self._session.auth = _Bearer(options.token)
        if options.client_certificate is not None:
            self._session.cert = (str(options.client_certificate), str(options.client_key))
        self._verify = True if options.certificate is None else str(options.certificate)

    def predict(self, signature, input_name, values, outputs, timeout):
        if not isinstance(values, np.ndarray):
            values = [{"b64": base64.b64encode(value).decode()} for value in values]
        body = {"signature_name": signature, "instances": [{input_name: value} for value in values]}
        content = orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)
        rows = self._ask("POST", f"{self._url}:predict", timeout, content).get("predictions")
        if not isinstance(rows, list) or len(rows) != len(values):
            raise ServingError(f"{self._address.text}: the answer holds no prediction for each image")
        if len(outputs) == 1 and not isinstance(rows[0], dict):
            rows = [{outputs[0]: row} for row in rows]  # the name of an only output is left out
        try:
            return {name: _array([row[name] for row in rows]) for name in outputs if name in rows[0]}
        except (ValueError, TypeError, KeyError, OverflowError) as error:
            raise ServingError(f"{self._address.text}: an output is not an array ({error})") from error

    def status(self, timeout):
        answer = self._ask("GET", self._url, timeout)
        try:
            return {int(found["version"]): str(found["state"]) for found in answer["model_version_status"]}
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ServingError(f"{self._address.text}: the answer is not a model's status") from error

    def array_bytes(self, count, dtype):
        return count * _NUMBER_BYTES[dtype]

    def file_bytes(self, size):
        return (size + 2) // 3 * 4 + len('{"b64":""},')

    def answer_bytes(self, wanted, all_there):
        return _ANSWER_NUMBER_BYTES * all_there

    def close(self):
        self._session.close()

    def _ask(self, method: str, url: str, timeout: float, content: bytes | None = None) -> dict:
        end = time.monotonic() + timeout
        where = self._address.text
        try:
            with self._session.request(
                method,
                url,
                data=content,
                headers={"Content-Type": "application/json"},
                timeout=(min(timeout, _CONNECT_SECONDS), timeout),
                verify=self._verify,  # $REQUESTS_CA_BUNDLE would override the session's own
                allow_redirects=False,
                stream=True,
            ) as response:
                text = self._read(response, end, timeout)
                status = response.status_code
        except ServingError:  # an OSError, too
            raise
        except requests.exceptions.SSLError as error:
            reason = f"no encrypted connection could be made: {_cause(error)}"
            raise ServingError(f"{where}: {reason}") from error
        except requests.ConnectTimeout as error:
            raise TransientServingError(f"{where} is not available: no connection in time") from error
        except requests.Timeout as error:
            raise self._late(timeout) from error
        except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError) as error:
            if error.args and isinstance(error.args[0], urllib3.exceptions.ReadTimeoutError):
                raise self._late(timeout) from error
            raise TransientServingError(f"{where} is not available: {_cause(error)}") from error
        except (requests.RequestException, OSError) as error:
            raise ServingError(f"{where}: {error}") from error
        return self._parsed(status, text)

    def _read(self, response: requests.Response, end: float, timeout: float) -> bytes:
        """The answer; `requests` limits neither its size nor its total time."""
        content = bytearray()
        for chunk in response.iter_content(_CHUNK):
            content += chunk
            if len(content) > self._max_message_bytes:
                raise ServingError(
                    f"{self._address.text}: the answer has more than {self._max_message_bytes} bytes "
                    "(`max_message_bytes`)"
                )
            if time.monotonic() > end:
                raise self._late(timeout)
        return bytes(content)

    def _parsed(self, status: int, text: bytes) -> dict:
        where = self._address.text
        answer = _loaded(text)
        if status == 200:
            if not isinstance(answer, dict):
                raise ServingError(f"{where}: the answer is not TensorFlow Serving's JSON")
            return answer
        details = answer.get("error") if isinstance(answer, dict) else text[:200].decode(errors="replace")
        details = one_line(str(details))
        if status in _TRANSIENT:
            raise TransientServingError(f"{where} is not available (HTTP {status}): {details}")
        reason = _REFUSALS.get(status, f"failed (HTTP {status})")
        raise ServingError(f"{where}: the server of {self._address.name!r} {reason}: {details}")

    def _late(self, timeout: float) -> ServingError:
        return ServingError(f"{self._address.text} gave no answer within {timeout:.3g} s")


class _Bearer(requests.auth.AuthBase):
    """Sets the token. As a plain header it would be overridden by an entry for the host in ~/.netrc."""

    def __init__(self, token: str | None):
        self._token = token

    def __call__(self, request):
        if self._token is not None:
            request.headers["Authorization"] = f"Bearer {self._token}"
        return request


def _loaded(text: bytes) -> object:
    try:
        return orjson.loads(text)
    except ValueError:
        pass
    try:
        return parse_json(text)  # knows NaN and Infinity, which the server writes
    except ValueError:
        return None


def _array(values) -> np.ndarray:
    if isinstance(values, list) and values and isinstance(values[0], str):
        return np.array([value.encode() for value in values], dtype=object)
    return np.asarray(values, dtype="float32")


def _cause(error: Exception) -> str:
    """The innermost reason: what `requests` prints around it is mostly memory addresses."""
    inner = error.args[0] if error.args and isinstance(error.args[0], Exception) else error
    reason = getattr(inner, "reason", None) or inner
    text = str(reason)
    return text.rsplit(": ", 1)[-1] if "object at 0x" in text else text

"""MLflow's page, served by this process: there are no children that could be left behind, whatever ends it."""

import os
import socket
import threading
import time
import warnings
from typing import Any

from masked_memory.pipeline.files import InputError

#: MLflow's page says that usage data are collected, also where that is switched off, until someone closes the notice.
CLOSED = b'<script>localStorage.setItem("mlflow.telemetry.info.alert.dismissed_v1","true")</script>'
RENEWED = (b"content-length", b"etag", b"last-modified")
UNASKED = (b"if-", b"accept-encoding", b"range")  # the page is asked for as a whole, and as it is


def mlflow_page(database: str) -> Any:
    """The ASGI application of MLflow over a database, set up as by `mlflow ui`. Takes some seconds."""
    os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
    nothing_sent = os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true") == "true"
    warnings.simplefilter("ignore")  # of MLflow's own server
    import uvicorn  # noqa: F401 (MLflow looks whether it is there, and guards its pages then)
    from mlflow.server import constants

    os.environ |= {
        constants.BACKEND_STORE_URI_ENV_VAR: database,
        constants.ARTIFACT_ROOT_ENV_VAR: "mlflow-artifacts:/",
        constants.SERVE_ARTIFACTS_ENV_VAR: "true",
        constants.ARTIFACTS_DESTINATION_ENV_VAR: "./mlartifacts",
    }
    from mlflow.server.fastapi_app import app

    return _without_notice(app) if nothing_sent else app


def _without_notice(app: Any) -> Any:
    """The same application, whose first page closes the notice on usage data before it is drawn. Where it looks
    otherwise than expected, it stays as it is."""

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or (scope["method"], scope["path"]) != ("GET", "/"):
            await app(scope, receive, send)
            return
        start: dict[str, Any] = {}
        body = b""

        async def collect(message: Any) -> None:
            nonlocal body
            start.update(message if message["type"] == "http.response.start" else {})
            body += message.get("body", b"")

        asked = [(name, value) for name, value in scope["headers"] if not name.startswith(UNASKED)]
        await app(scope | {"headers": asked}, receive, collect)
        body = body.replace(b"<head>", b"<head>" + CLOSED, 1)
        headers = [(name, value) for name, value in start["headers"] if name.lower() not in RENEWED]
        await send(start | {"headers": [*headers, (b"content-length", str(len(body)).encode())]})
        await send({"type": "http.response.body", "body": body})

    return answer


def show_page(page: Any, at: socket.socket) -> None:
    """Serve until this process is interrupted. Raises InputError where the server does not start."""
    import uvicorn

    config = uvicorn.Config(page, log_level="error", access_log=False, timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([at],), daemon=True)  # signals reach the main one alone
    thread.start()
    try:
        while thread.is_alive():
            time.sleep(1)
    finally:
        server.should_exit = True
        thread.join()
    raise InputError("MLflow's server ended by itself; what it printed above says why")

"""A resident client with a tiny app, run as a process of its own by the transport tests.

Usage: python node_process.py '{"server": "127.0.0.1:9092", "insecure": true}'
"""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.train()
def train(message, context):
    """Add one to every array, and count the messages of this run."""
    before = context.state["seen"]["count"] if "seen" in context.state else 0
    context.state["seen"] = MetricRecord({"count": before + 1})
    arrays = {name: Array(a.numpy() + 1) for name, a in message.content["arrays"].items()}
    metrics = MetricRecord(
        {"count": before + 1, "pid": os.getpid(), "site": context.node_config.get("site", 0)}
    )
    content = RecordDict({"arrays": ArrayRecord(arrays), "metrics": metrics})
    return Message(content, reply_to=message)


@app.evaluate()
def evaluate(message, context):
    """Work for a while."""
    time.sleep(message.content["config"]["seconds"])
    done = ConfigRecord({"pid": os.getpid()})
    return Message(RecordDict({"config": done}), reply_to=message)


@app.query()
def query(message, context):
    """Fail with a text that must not leave the site."""
    raise ValueError("patient 4711")


def main() -> int:
    from fl_client.link.node import NodeConfig, run_node
    from fl_common.errors import LinkError

    options = json.loads(sys.argv[1])
    for name in ("ca", "private_key"):
        if options.get(name):
            options[name] = Path(options[name])
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    try:
        run_node(NodeConfig(**options), app, stop=stop, say=lambda line: print(line, flush=True))
    except LinkError as error:
        print(f"LinkError: {error}", flush=True)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

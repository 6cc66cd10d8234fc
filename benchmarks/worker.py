"""The process of one side: it builds the side's class, then calls the methods it is asked for.

``python -m benchmarks.worker module:Class '{"argument": ...}'`` reads a request a line, ``[method, arguments]``, and answers each with
a line, ``{"result": ..., "seconds": ...}``. It asks for nothing else and sleeps in between.
"""

import importlib
import json
import os
import sys
import time


def serve(target, arguments):
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints stays out of the answers

    def answer(**content):
        print(json.dumps(content), file=replies, flush=True)

    module, _, name = target.partition(":")
    side = getattr(importlib.import_module(module), name)(**json.loads(arguments))
    answer(ready=True)
    for line in sys.stdin:
        method, arguments = json.loads(line)
        started = time.perf_counter()
        result = getattr(side, method)(**arguments)
        answer(result=result, seconds=time.perf_counter() - started)


if __name__ == "__main__":
    serve(*sys.argv[1:])

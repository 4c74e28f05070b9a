"""Calls a target again and again with nothing but gRPC in between; `xds:///…` targets need GRPC_XDS_BOOTSTRAP.

Argument: the target. Each line of input is answered with a line of JSON: who answered since the last, how many calls there
were and how many failed since the start, and the first failures.
"""

import collections
import json
import sys
import threading

import grpc

PERIOD = 0.005


class Caller(threading.Thread):
    def __init__(self, target):
        super().__init__(daemon=True)
        self.channel = grpc.insecure_channel(target)
        self.call = self.channel.unary_unary("/test.Echo/Name")
        self.lock = threading.Lock()
        self.pods = collections.Counter()
        self.calls = 0
        self.failed = 0
        self.examples = []

    def run(self):
        # Before there is a configuration, calls wait for it.
        grpc.channel_ready_future(self.channel).result(timeout=30)
        pause = threading.Event()
        while True:
            try:
                pod = self.call(b"", timeout=10).decode()
                with self.lock:
                    self.calls += 1
                    self.pods[pod] += 1
            except grpc.RpcError as error:
                with self.lock:
                    self.calls += 1
                    self.failed += 1
                    if len(self.examples) < 5:
                        self.examples.append(f"{error.code().name}: {error.details()}")
            pause.wait(PERIOD)

    def report(self):
        with self.lock:
            pods, self.pods = dict(self.pods), collections.Counter()
            return {"pods": pods, "calls": self.calls, "failed": self.failed, "examples": self.examples}


def main():
    caller = Caller(sys.argv[1])
    caller.start()
    for _ in sys.stdin:
        print(json.dumps(caller.report()), flush=True)


main()

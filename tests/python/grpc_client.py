"""Calls grpc_server.py through a proxy, and says what is not as it was without one.

usage: grpc_client.py CASE PROXY [SERVER [CA]]     (CASE is a function below, or `all` for every one that starts with `call_`)
"""

import os
import sys
import threading
import time
from concurrent import futures

import grpc

case, proxy = sys.argv[1:3]
direct = sys.argv[3] if len(sys.argv) > 3 else None
authority = sys.argv[4] if len(sys.argv) > 4 else None

OPTIONS = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_metadata_size", 64 * 1024),
    ("grpc.absolute_max_metadata_size", 64 * 1024),
    ("grpc.use_local_subchannel_pool", 1),
]


class Peer:
    """The methods of the server over one channel, which is one connection."""

    def __init__(self, target, ca=None, options=()):
        options = OPTIONS + list(options)
        if ca:
            credentials = grpc.ssl_channel_credentials(open(ca, "rb").read())
            self.channel = grpc.secure_channel(target, credentials, options)
        else:
            self.channel = grpc.insecure_channel(target, options)
        for kind, names in {
            "unary_unary": ["Unary", "Fail", "Wait", "Ending", "Metadata", "Leave"],
            "stream_unary": ["Sum", "SumSlowly"],
            "unary_stream": ["Produce", "FailAfter", "WaitStreaming", "Die"],
            "stream_stream": ["Echo"],
        }.items():
            for name in names:
                setattr(self, name, getattr(self.channel, kind)(f"/weft.Test/{name}"))


def connect(**arguments):
    return Peer(proxy, authority, **arguments)


def failure(call):
    """The error with which `call` ends."""
    try:
        result = call()
    except grpc.RpcError as error:
        return error
    raise AssertionError(f"it did not fail: {result!r}")


def await_ending(label):
    """How the server saw the end of Wait, asked past the proxy."""
    server = Peer(direct)
    deadline = time.monotonic() + 20
    while True:
        ending = server.Ending(label.encode(), timeout=20).decode()
        if ending not in ("waiting", "unknown") or time.monotonic() > deadline:
            return ending
        time.sleep(0.05)


def call_unary():
    peer = connect()
    for request in (b"", b"hello", bytes(range(256)) * 5000):
        assert peer.Unary(request, timeout=20) == request


def call_client_streaming():
    answer = connect().Sum((b"x" * size for size in range(500)), timeout=20)
    assert answer == b"500 124750", answer
    assert connect().Sum(iter(()), timeout=20) == b"0 0"


def call_server_streaming():
    sizes = [len(message) for message in connect().Produce(b"1000 1000", timeout=20)]
    assert sizes == [1000] * 1000, len(sizes)
    assert list(connect().Produce(b"0 0", timeout=20)) == []


def call_bidirectional_in_turns():
    """Each request is sent only when the answer to the one before has come."""
    answered = threading.Semaphore(1)

    def requests():
        for number in range(200):
            assert answered.acquire(timeout=20)
            yield str(number).encode()

    count = 0
    for answer in connect().Echo(requests(), timeout=20):
        assert answer == str(count).encode()
        count += 1
        answered.release()
    assert count == 200, count


def call_that_fails_at_once():
    for code in ("NOT_FOUND", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "UNAUTHENTICATED", "DATA_LOSS"):
        error = failure(lambda: connect().Fail(f"{code} größer: 100 %\n".encode(), timeout=20))
        assert error.code().name == code, error
        assert error.details() == "größer: 100 %\n", error.details()
        trailers = dict(error.trailing_metadata())
        assert trailers["grpc-status-details-bin"] == b"\x00\x01rich\xff", trailers
        assert trailers["x-why"] == "asked for", trailers


def call_that_fails_after_messages():
    call, messages = connect().FailAfter(b"3 ABORTED", timeout=20), []
    error = failure(lambda: [messages.append(message) for message in call])
    assert (len(messages), error.code().name, error.details()) == (3, "ABORTED", "after 3"), error
    assert dict(error.trailing_metadata())["grpc-status-details-bin"] == b"\x00\x01rich\xff"


def call_that_nobody_implements():
    error = failure(lambda: connect().channel.unary_unary("/weft.Test/Nothing")(b"", timeout=20))
    assert error.code() == grpc.StatusCode.UNIMPLEMENTED, error


def call_with_a_deadline():
    for method in ("Wait", "WaitStreaming"):
        label, started = f"deadline {method}", time.monotonic()

        def call():
            answer = getattr(connect(), method)(label.encode(), timeout=0.5)
            return answer if method == "Wait" else list(answer)

        error = failure(call)
        assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED, error
        assert time.monotonic() - started < 5
        # It saw the deadline, and the end.
        assert await_ending(label) == "cancelled, deadline True", await_ending(label)


def call_cancelled_by_the_client():
    peer, label = connect(), "cancelled"
    call = peer.WaitStreaming(label.encode())
    assert next(call) == b"first"
    call.cancel()
    assert failure(lambda: next(call)).code() == grpc.StatusCode.CANCELLED
    assert await_ending(label) == "cancelled, deadline False", await_ending(label)
    # Neither connection suffered.
    assert peer.Unary(b"after", timeout=20) == b"after"


def call_of_a_client_that_goes_away():
    peer, label = connect(), "gone"
    call = peer.WaitStreaming(label.encode())
    assert next(call) == b"first"
    peer.channel.close()
    assert await_ending(label) == "cancelled, deadline False", await_ending(label)


def call_with_large_metadata():
    given = [(f"x-{number}", "v" * 1000) for number in range(12)] + [("x-bin", bytes(range(256)) * 8)]
    _, call = connect().Metadata.with_call(b"", metadata=given, timeout=20)
    for metadata in (call.initial_metadata(), call.trailing_metadata()):
        came = {key: value for key, value in metadata if key.startswith("x-")}
        for key, value in given:
            assert came.get(key) == value, (key, came.get(key))


def call_with_too_much_metadata():
    peer = connect(options=[("grpc.max_metadata_size", 1 << 20)])
    error = failure(lambda: peer.Metadata(b"", metadata=[("x-much", "v" * 100_000)], timeout=20))
    assert error.code() not in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.OK), error
    assert connect().Unary(b"after", timeout=20) == b"after"


def call_while_pings_come():
    options = [
        ("grpc.keepalive_time_ms", 200),
        ("grpc.keepalive_timeout_ms", 2000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
    ]
    peer, go_on = connect(options=options), threading.Event()

    def requests():
        yield b"before"
        go_on.wait(20)
        yield b"after"

    call = peer.Echo(requests(), timeout=30)
    assert next(call) == b"before"
    # Only pings for ten times their period.
    time.sleep(2)
    go_on.set()
    assert list(call) == [b"after"]


def call_many_at_once():
    """More calls than the proxy allows streams, half of them streaming, over one connection."""
    peer = connect()
    with futures.ThreadPoolExecutor(50) as pool:
        unary = [peer.Unary.future(str(number).encode(), timeout=60) for number in range(300)]
        streams = [pool.submit(lambda: len(list(peer.Produce(b"20 20000", timeout=60)))) for _ in range(100)]
        assert [call.result() for call in unary] == [str(number).encode() for number in range(300)]
        assert [stream.result() for stream in streams] == [20] * 100


def unavailable():
    """The server ends in the middle of a stream; after that there is none."""
    peer = connect()
    call, messages = peer.Die(b"", timeout=20), []
    error = failure(lambda: [messages.append(message) for message in call])
    assert messages == [b"last words"], messages
    assert error.code() == grpc.StatusCode.UNAVAILABLE, error
    error = failure(lambda: peer.Unary(b"", timeout=20))
    assert error.code() == grpc.StatusCode.UNAVAILABLE, error


def slow_reader():
    """100 MB of which the first bytes are read, then nothing for 3 s, then the rest."""
    call = connect().Produce(b"1600 65536")
    total = len(next(call))
    print("paused", flush=True)
    time.sleep(3)
    for number, message in enumerate(call):
        total += len(message)
        if number % 100 == 0:
            time.sleep(0.05)
    assert total == 1600 * 65536, total


def slow_server():
    """100 MB of which the server reads the first bytes, then nothing for 3 s, then the rest."""

    def requests():
        yield b"3"
        for _ in range(1600):
            yield bytes(65536)

    answer = connect().SumSlowly(requests())
    assert answer == f"1600 {1600 * 65536}".encode(), answer


def spread():
    """600 calls over one connection, 40 at a time; prints how many each server got."""
    peer, counts = connect(), {}
    peer.Unary(b"first", timeout=20)

    def call(_):
        _, call = peer.Unary.with_call(b"x", timeout=20)
        return dict(call.initial_metadata())["x-server"]

    with futures.ThreadPoolExecutor(40) as pool:
        for server in pool.map(call, range(600)):
            counts[server] = counts.get(server, 0) + 1
    print(" ".join(f"{server}={count}" for server, count in sorted(counts.items())))


def go_on_until_told(forgiven=()):
    """Calls all the time, and one long stream, until a line comes; none may fail."""
    peer, stop, errors, done, sent = connect(), threading.Event(), [], [], []

    def calls():
        while not stop.is_set():
            try:
                peer.Unary(b"x" * 1000, timeout=20)
                done.append(1)
            except grpc.RpcError as error:
                if error.code() not in forgiven:
                    errors.append(error)
                    return

    def requests():
        while not stop.is_set():
            sent.append(1)
            yield b"still here"
            time.sleep(0.02)

    def stream():
        try:
            answers = sum(1 for _ in connect().Echo(requests()))
            assert answers == len(sent), (answers, len(sent))
        except (grpc.RpcError, AssertionError) as error:
            errors.append(error)

    threads = [threading.Thread(target=target, daemon=True) for target in (calls, calls, stream)]
    for thread in threads:
        thread.start()
    print("calling", flush=True)
    sys.stdin.readline()
    stop.set()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive(), "a call does not end"
    assert not errors, errors
    print(f"{len(done)} calls", flush=True)


def go_on_while_a_server_leaves():
    """As go_on_until_told; but grpcio's server cancels the calls that reach it after it decided to stop and before its
    GOAWAY is read. It does so without a proxy as well, and no proxy can know that such a call was not begun."""
    go_on_until_told(forgiven=[grpc.StatusCode.CANCELLED])


def stream_until_told():
    """One long stream until a line comes; it must end well."""
    stop = threading.Event()

    def requests():
        while not stop.is_set():
            yield b"still here"
            time.sleep(0.02)

    call = connect().Echo(requests())
    assert next(call) == b"still here"
    print("calling", flush=True)
    threading.Thread(target=lambda: (sys.stdin.readline(), stop.set()), daemon=True).start()
    for answer in call:
        assert answer == b"still here"
    assert call.code() == grpc.StatusCode.OK, call


if case == "leave":
    assert Peer(proxy).Leave(b"", timeout=20) == b"bye"
elif case == "all":
    for name, function in list(globals().items()):
        if name.startswith("call_"):
            started = time.monotonic()
            try:
                function()
            except BaseException:
                print(f"{name} failed", flush=True)
                raise
            print(f"{name} {time.monotonic() - started:.2f} s", flush=True)
else:
    globals()[case]()
# Threads of the library that still wait for something must not hold up the end.
sys.stdout.flush()
os._exit(0)

#!/usr/bin/env python3
"""A client of Towline in Python, with the standard library alone.

It is written from the book's chapters "Protocol" and "Records and messages", to show that they are enough: hello, put, get,
append, reading a stream, and a feed with credits. It is an example, not a product: one thread reads, errors end the connection.

    python3 towline_client.py 127.0.0.1:7401            # does each once, and checks what comes
"""

import os
import queue
import socket
import struct
import sys
import threading
import zlib

# Frames: kinds, lanes, flags (chapter "Protocol").
HELLO, HELLO_ACK, OPEN, DATA, CREDIT, RESET, PING, PONG, GO_AWAY = range(1, 10)
LANE_CONTROL, LANE_REQUEST, LANE_BULK = 0, 2, 3
MORE, END, STREAMS = 0x0001, 0x0004, 0x0008
STREAM_REQUEST, STREAM_FEED = 1, 4
HEADER = struct.Struct("<IIBBHIII")
MAGIC = b"TOWLINE\0"
# What this side takes: the rules between them are in "Limits that fit".
FRAME_MAX, MESSAGE_MAX, STREAM_WINDOW, CONNECTION_WINDOW = 128 << 10, 24 << 20, 32 << 20, 64 << 20
# Envelopes (chapter "Records and messages").
REQUEST, RESPONSE, SUBSCRIBE, DELIVERY = 0x0301, 0x0302, 0x0303, 0x0304
EVENTUAL, LINEARIZABLE = 0, 2
PUT, DELETE, APPEND = 1, 2, 4
ANY, ABSENT, PRESENT, VERSION = 0, 1, 2, 3


class Failed(Exception):
    """The server says why it did not do it."""


def vec(data):
    return struct.pack("<Q", len(data)) + data


class Reader:
    """The fields of a body, one after the other."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, count):
        piece = self.data[self.at:self.at + count]
        if len(piece) != count:
            raise ValueError("the body ends too early")
        self.at += count
        return piece

    def u8(self):
        return self.take(1)[0]

    def u16(self):
        return struct.unpack("<H", self.take(2))[0]

    def u32(self):
        return struct.unpack("<I", self.take(4))[0]

    def u64(self):
        return struct.unpack("<Q", self.take(8))[0]

    def vec(self):
        return self.take(self.u64())

    def list(self, item):
        return [item(self) for _ in range(self.u64())]

    def option(self, item):
        return item(self) if self.u8() else None


def envelope(kind, body):
    head = struct.pack("<HHI", kind, 1, len(body))
    return head + struct.pack("<I", zlib.crc32(body, zlib.crc32(head))) + body


def opened(kind, data):
    head, crc, body = data[:8], struct.unpack("<I", data[8:12])[0], data[12:]
    found, version, length = struct.unpack("<HHI", head)
    if (found, version, length) != (kind, 1, len(body)) or zlib.crc32(body, zlib.crc32(head)) != crc:
        raise ValueError("not the envelope that was expected")
    return Reader(body)


def operation(kind, key, value=b"", expect=ANY, argument=0):
    return struct.pack("<BBHIIQ", kind, expect, len(key), 0, len(value), argument) + key + value


def record(*operations):
    body = struct.pack("<BBH16sQQQII", 1, 0, 0, bytes(16), 0, 0, 0, 0, len(operations)) + b"".join(operations)
    return struct.pack("<I", 4 + len(body)) + body


def operations_of(data):
    """(kind, key, metadata, value) of each operation of a record that has no preconditions."""
    count, at, found = struct.unpack_from("<I", data, 52)[0], 56, []
    for _ in range(count):
        kind, _, keys, metas, values, _ = struct.unpack_from("<BBHIIQ", data, at)
        at += 20
        key, meta = data[at:at + keys], data[at + keys:at + keys + metas]
        at += keys + metas
        found.append((kind, key, meta, data[at:at + values]))
        at += values
    return found


class Connection:
    """Frames, credits and messages; a thread reads."""

    def __init__(self, host, port):
        self.socket = socket.create_connection((host, port))
        self.sent, self.received, self.seed = 0, 0, 0
        self.lock, self.inboxes, self.parts = threading.Lock(), {}, {}
        self.consumed, self.told = {0: 0}, {0: 0}
        self.next_stream = 1
        self.shake_hands()
        threading.Thread(target=self.read, daemon=True).start()

    def shake_hands(self):
        nonce = os.urandom(16)
        tags = [
            (1, struct.pack("<HH", 1, 1)), (2, bytes(16)), (3, bytes(16)), (4, bytes(8)), (5, bytes(16)),
            (6, struct.pack("<Q", 1)), (7, b"\x02"), (8, struct.pack("<I", FRAME_MAX)),
            (9, struct.pack("<Q", STREAM_WINDOW)), (10, struct.pack("<Q", CONNECTION_WINDOW)),
            (11, struct.pack("<Q", MESSAGE_MAX)), (12, struct.pack("<I", 0)), (13, nonce),
        ]
        self.send_frame(HELLO, MAGIC + b"".join(struct.pack("<HH", tag, len(value)) + value for tag, value in tags))
        kind, _, _, _, payload = self.receive_frame()
        if kind != HELLO_ACK or payload[:8] != MAGIC:
            raise ValueError("no HelloAck")
        found, at = {}, 8
        while at < len(payload):
            tag, length = struct.unpack_from("<HH", payload, at)
            found[tag], at = payload[at + 4:at + 4 + length], at + 4 + length
        if 15 in found:
            raise Failed("refused: TW-%d" % struct.unpack_from("<H", found[15])[0])
        self.frame_max = min(FRAME_MAX, struct.unpack("<I", found[8])[0])
        self.seed = zlib.crc32(nonce + found[13])

    def send_frame(self, kind, payload=b"", lane=0, flags=0, stream=0):
        rest = HEADER.pack(0, len(payload), kind, lane, flags, stream, zlib.crc32(payload), self.sent & 0xFFFFFFFF)[4:]
        self.sent += 1
        self.socket.sendall(struct.pack("<I", zlib.crc32(rest, self.seed)) + rest + payload)

    def exactly(self, count):
        data = bytearray()
        while len(data) < count:
            piece = self.socket.recv(count - len(data))
            if not piece:
                raise ConnectionError("the byte stream ended")
            data += piece
        return bytes(data)

    def receive_frame(self):
        head = self.exactly(HEADER.size)
        crc, length, kind, lane, flags, stream, payload_crc, number = HEADER.unpack(head)
        if zlib.crc32(head[4:], self.seed) != crc or number != self.received & 0xFFFFFFFF:
            raise ValueError("a damaged frame")
        self.received += 1
        payload = self.exactly(length)
        if zlib.crc32(payload) != payload_crc:
            raise ValueError("a damaged payload")
        return kind, lane, flags, stream, payload

    def read(self):
        try:
            while True:
                kind, _, flags, stream, payload = self.receive_frame()
                if kind == PING:
                    with self.lock:
                        self.send_frame(PONG, payload)
                elif kind == DATA and not flags & END:
                    part = self.parts.setdefault(stream, bytearray())
                    part += payload
                    if not flags & MORE:
                        self.inboxes[stream].put(bytes(self.parts.pop(stream)))
                elif kind in (DATA, RESET):
                    self.inboxes[stream].put(None)
                elif kind == GO_AWAY:
                    raise ConnectionError("the server goes away: %d" % struct.unpack_from("<I", payload)[0])
        except (OSError, ValueError) as error:
            for inbox in self.inboxes.values():
                inbox.put(error)

    def open(self, kind, lane):
        with self.lock:
            stream, self.next_stream = self.next_stream, self.next_stream + 2
            self.inboxes[stream], self.consumed[stream], self.told[stream] = queue.Queue(), 0, 0
            self.send_frame(OPEN, struct.pack("<HH", kind, 0), lane, 0, stream)
            return stream

    def send(self, stream, lane, message):
        # A message of this example is small; a real client waits until the credit of stream and connection covers all of it.
        with self.lock:
            for at in range(0, len(message), self.frame_max):
                piece = message[at:at + self.frame_max]
                self.send_frame(DATA, piece, lane, MORE if at + len(piece) < len(message) else 0, stream)

    def take(self, stream):
        """The next message of a stream, which counts as consumed: its credit goes back."""
        message = self.inboxes[stream].get(timeout=30)
        if isinstance(message, Exception):
            raise message
        if message is None:
            raise Failed("the stream has ended")
        with self.lock:
            for credit, window in ((stream, STREAM_WINDOW), (0, CONNECTION_WINDOW)):
                self.consumed[credit] += len(message) + 64
                if self.consumed[credit] - self.told[credit] >= window // 8:
                    self.told[credit] = self.consumed[credit]
                    self.send_frame(CREDIT, struct.pack("<Q", self.consumed[credit] + window), 0, 0, credit)
        return message

    def close(self):
        with self.lock:
            self.send_frame(GO_AWAY, struct.pack("<II", 16, 0))
        self.socket.close()


def failure(body):
    code, _, _, message = body.u16(), body.u32(), body.u8(), body.vec().decode()
    return Failed("TW-%04d: %s" % (code, message))


class Client:
    """The calls of one namespace."""

    def __init__(self, address, namespace="default"):
        host, port = address.rsplit(":", 1)
        self.connection, self.namespace, self.number = Connection(host, int(port)), namespace.encode(), 0
        self.requests = self.connection.open(STREAM_REQUEST, LANE_REQUEST)

    def call(self, call, fields):
        self.number += 1
        body = struct.pack("<QI", self.number, 10_000) + vec(self.namespace) + struct.pack("<II", 5, call) + fields
        self.connection.send(self.requests, LANE_REQUEST, envelope(REQUEST, body))
        answer = opened(RESPONSE, self.connection.take(self.requests))
        number, kind = answer.u64(), answer.u32()
        if number != self.number:
            raise ValueError("an answer to another request")
        if kind == 5:
            raise failure(answer)
        return answer.u32(), answer

    def write(self, *operations):
        """(LSN, None) if it took effect, (LSN, the rejection's number) if a condition did not hold."""
        kind, answer = self.call(0, vec(record(*operations)) + struct.pack("<I", 2))
        assert kind == 0, kind
        _shard, _version, _term, lsn = answer.u64(), answer.u64(), answer.u32(), answer.u64()
        return lsn, answer.u32() if answer.u32() else None

    def put(self, key, value):
        return self.write(operation(PUT, key, value))

    def append(self, stream, event, expect=ANY, version=0):
        return self.write(operation(APPEND, stream, event, expect, version))

    def get(self, *keys):
        """(version, value) of each key, or None."""
        asked = struct.pack("<Q", len(keys)) + b"".join(vec(key) for key in keys) + struct.pack("<I", LINEARIZABLE)
        kind, answer = self.call(1, asked)
        assert kind == 2, kind
        return answer.list(lambda body: body.option(lambda body: (body.u64(), body.vec())))

    def read_stream(self, stream, start=1, count=1000):
        """The stream's version, and (version, value) of its events."""
        asked = vec(stream) + struct.pack("<QIIII", start, 0, count, 1 << 20, LINEARIZABLE)
        kind, answer = self.call(3, asked)
        assert kind == 4, kind
        events = answer.list(lambda body: (body.u64(), body.u64(), body.vec(), body.vec()))
        return answer.u64(), [(version, value) for version, _, _, value in events]

    def subscribe(self, token=None, prefix=None):
        """Yields (LSN, operations, token) for ever: from the beginning, or from behind a token."""
        since = struct.pack("<I", 0) if token is None else struct.pack("<I", 3) + vec(token)
        wanted = struct.pack("<I", 0) if prefix is None else struct.pack("<I", 2) + vec(prefix)
        stream = self.connection.open(STREAM_FEED, LANE_BULK)
        self.connection.send(stream, LANE_BULK, envelope(SUBSCRIBE, vec(self.namespace) + since + wanted))
        while True:
            delivery = opened(DELIVERY, self.connection.take(stream))
            if delivery.u32() == 1:
                raise failure(delivery)
            changes = delivery.list(lambda b: (b.u64(), b.u64(), b.u32(), b.u64(), b.u64(), b.vec()))
            behind = delivery.vec()
            for number, (_, _, _, lsn, _, data) in enumerate(changes, 1):
                # Only behind the last of them is there a token.
                yield lsn, operations_of(data), behind if number == len(changes) else None

    def close(self):
        self.connection.close()


def check(address):
    client = Client(address)
    lsn, rejected = client.put(b"stock/apple", b"7")
    assert rejected is None
    assert client.get(b"stock/apple", b"stock/pear") == [(lsn, b"7"), None]
    assert client.append(b"order-42", b"placed", ABSENT)[1] is None
    # The second one finds the stream there.
    assert client.append(b"order-42", b"placed", ABSENT)[1] is not None
    client.append(b"order-42", b"paid", VERSION, 1)
    assert client.read_stream(b"order-42") == (2, [(1, b"placed"), (2, b"paid")])
    try:
        client.put(b"", b"an empty key")
        raise AssertionError("it was taken")
    except Failed as error:
        assert "TW-" in str(error), error
    # More than a window: the feed comes to its end only if credit goes back.
    size, count = 1 << 20, 80
    for number in range(count):
        client.put(b"large-%03d" % number, os.urandom(size))
    feed, token, seen = client.subscribe(prefix=b"large-"), None, 0
    while seen < count:
        _, operations, behind = next(feed)
        assert operations[0][1] == b"large-%03d" % seen and len(operations[0][3]) == size
        seen, token = seen + 1, behind or token
    client.put(b"large-last", b"1")
    _, operations, _ = next(client.subscribe(token=token, prefix=b"large-"))
    assert operations == [(PUT, b"large-last", b"", b"1")], operations
    client.close()
    print("python: hello, put, get, append, read_stream, subscribe with %d MiB of credits: all as the book says" % (seen * size >> 20))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    check(sys.argv[1])

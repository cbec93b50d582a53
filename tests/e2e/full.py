"""A client of a volume that may be full, through libnbd: it keeps account in a file of what was answered.

usage: full.py fill URI ACCOUNT [CHUNKS]    writes chunks in order that are not there, so many at the most, until all that are
                                            in flight are refused for want of space
       full.py put URI ACCOUNT              writes one more chunk; exits with 28 if there is no space
       full.py trim URI ACCOUNT EVERY       lets go of every so manieth chunk that is there, and flushes
       full.py verify URI ACCOUNT           reads all chunks and compares

Prints what it did as JSON. Any error but a lack of space, and an answer that is long in coming, ends it.
"""

import errno
import hashlib
import json
import os
import sys
import time

import nbd

CHUNK_BYTES = 64 << 10
# Requests in flight.
DEPTH = 16
ANSWER_SECONDS_MAX = 20


def content(chunk, life):
    """What the chunk holds in its so manieth life: nothing in life 0."""
    if not life:
        return bytes(CHUNK_BYTES)
    return hashlib.shake_128(f"{chunk} {life}".encode()).digest(CHUNK_BYTES)


class Flight:
    """A request that is not answered yet."""

    def __init__(self):
        self.since, self.error, self.buffer = time.monotonic(), None, None

    def completed(self, error):
        self.error = error.value
        # Nobody asks the handle for it.
        return 1

    def seconds(self):
        return time.monotonic() - self.since


class Volume:
    def __init__(self, uri, account):
        self.path = account
        # How often each chunk was written, and whether it is there: a chunk that is not is all zeroes.
        self.lives, self.there = {}, set()
        if os.path.exists(account):
            with open(account) as file:
                told = json.load(file)
            self.lives, self.there = {int(chunk): life for chunk, life in told["lives"].items()}, set(told["there"])
        self.handle = nbd.NBD()
        self.handle.connect_uri(uri)
        self.chunks = self.handle.get_size() // CHUNK_BYTES
        self.longest_seconds = 0.0

    def save(self):
        with open(self.path, "w") as file:
            json.dump({"lives": self.lives, "there": sorted(self.there)}, file)

    def expected(self, chunk):
        return content(chunk, self.lives[chunk] if chunk in self.there else 0)

    def each(self, chunks, ask, answered):
        """Asks for each chunk, several at once, and hands on each answer's error, 0 if there was none, and the buffer. Ends
        early once `answered` says so (False)."""
        flying, asking, todo = {}, True, iter(chunks)
        while True:
            while asking and len(flying) < DEPTH:
                chunk = next(todo, None)
                if chunk is None:
                    asking = False
                    break
                flying[chunk] = flight = Flight()
                # The handle has no memory of its own: the buffer is kept until the answer.
                flight.buffer = ask(chunk, flight.completed)
            if not flying:
                return
            self.handle.poll(ANSWER_SECONDS_MAX * 1000)
            for chunk in [chunk for chunk, flight in flying.items() if flight.error is not None]:
                flight = flying.pop(chunk)
                self.longest_seconds = max(self.longest_seconds, flight.seconds())
                if not answered(chunk, flight.error, flight.buffer):
                    asking = False
            late = [chunk for chunk, flight in flying.items() if flight.seconds() > ANSWER_SECONDS_MAX]
            assert not late, f"no answer for chunks {late} after {ANSWER_SECONDS_MAX} s"

    def write(self, chunks):
        """Writes chunks anew until everything in flight is refused; returns how many were taken and refused."""
        counts = {"taken": 0, "refused": 0}
        in_a_row = 0

        def ask(chunk, completed):
            buffer = nbd.Buffer.from_bytearray(bytearray(content(chunk, self.lives.get(chunk, 0) + 1)))
            self.handle.aio_pwrite(buffer, chunk * CHUNK_BYTES, completion=completed)
            return buffer

        def answered(chunk, error, _):
            nonlocal in_a_row
            assert error in (0, errno.ENOSPC), f"chunk {chunk}: {os.strerror(error)}"
            if error:
                counts["refused"] += 1
                in_a_row += 1
            else:
                counts["taken"] += 1
                in_a_row = 0
                self.lives[chunk] = self.lives.get(chunk, 0) + 1
                self.there.add(chunk)
            return in_a_row < DEPTH

        self.each(chunks, ask, answered)
        return counts

    def fill(self, most=None):
        free = [chunk for chunk in range(self.chunks) if chunk not in self.there]
        counts = self.write(free[:most])
        self.handle.flush()
        return counts

    def put(self):
        counts = self.write([next(chunk for chunk in range(self.chunks) if chunk not in self.there)])
        if counts["refused"]:
            sys.exit(errno.ENOSPC)
        return counts

    def trim(self, every):
        gone = sorted(self.there)[::every]

        def ask(chunk, completed):
            self.handle.aio_trim(CHUNK_BYTES, chunk * CHUNK_BYTES, completion=completed)

        def answered(chunk, error, _):
            assert error == 0, f"chunk {chunk} is not trimmed: {os.strerror(error)}"
            self.there.remove(chunk)
            return True

        self.each(gone, ask, answered)
        self.handle.flush()
        return {"trimmed": len(gone)}

    def verify(self):
        wrong = []

        def ask(chunk, completed):
            buffer = nbd.Buffer(CHUNK_BYTES)
            self.handle.aio_pread(buffer, chunk * CHUNK_BYTES, completion=completed)
            return buffer

        def answered(chunk, error, buffer):
            assert error == 0, f"chunk {chunk} cannot be read: {os.strerror(error)}"
            if buffer.to_bytearray() != self.expected(chunk):
                wrong.append(chunk)
            return True

        # Also those that were refused hold what they held before.
        last = max(self.lives, default=0) + 2 * DEPTH
        for chunk in range(min(last, self.chunks)):
            self.lives.setdefault(chunk, 0)
        self.each(sorted(self.lives), ask, answered)
        assert not wrong, f"{len(wrong)} of {len(self.lives)} chunks are wrong: {wrong[:20]}"
        return {"verified": len(self.there)}


def main():
    what, uri, account, *rest = sys.argv[1:]
    volume = Volume(uri, account)
    done = getattr(volume, what)(*map(int, rest))
    if what != "verify":
        volume.save()
    done["bytes"] = len(volume.there) * CHUNK_BYTES
    done["longest_seconds"] = volume.longest_seconds
    volume.handle.shutdown()
    print(json.dumps(done))


if __name__ == "__main__":
    main()

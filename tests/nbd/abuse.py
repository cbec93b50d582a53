"""Wrong and odd requests through libnbd in non-strict mode, drawn from a seed, each with the answer it must get.

usage: abuse.py URI ROUNDS SEED PLAYGROUND-BYTES

Writes stay within the first PLAYGROUND-BYTES of the export; a copy of them in memory says what must be read.
"""

import errno
import random
import sys

import nbd

uri, rounds, seed, playground = sys.argv[1], *map(int, sys.argv[2:])
draw = random.Random(seed)
model = bytearray(playground)
UNKNOWN_FLAGS = [1 << 5, 1 << 9, 1 << 15]


def connect():
    handle = nbd.NBD()
    handle.set_strict_mode(0)
    handle.set_request_structured_replies(draw.random() < 0.7)
    handle.add_meta_context("base:allocation")
    handle.connect_uri(uri)
    return handle


def refused(code, what, *arguments, **named):
    try:
        what(*arguments, **named)
    except nbd.Error as error:
        if error.errnum != code:
            raise AssertionError(f"{what.__name__}: {error}, not {errno.errorcode[code]}") from error
    else:
        raise AssertionError(f"{what.__name__} was not refused")


def somewhere(most=100_000):
    length = draw.choice([1, 7, 511, 512, 513, 4096, 4097, draw.randrange(1, most)])
    return length, draw.randrange(playground - length)


def unaligned_write():
    length, offset = somewhere()
    data = draw.randbytes(length)
    h.pwrite(data, offset, flags=draw.choice([0, nbd.CMD_FLAG_FUA]))
    model[offset:offset + length] = data
    check(max(0, offset - 600), min(playground, offset + length + 600))


def unaligned_zero():
    length, offset = somewhere()
    if draw.random() < 0.5:
        h.trim(length, offset, flags=draw.choice([0, nbd.CMD_FLAG_FUA]))
    else:
        h.zero(length, offset, flags=draw.choice([0, nbd.CMD_FLAG_FUA, nbd.CMD_FLAG_NO_HOLE, nbd.CMD_FLAG_FAST_ZERO]))
    model[offset:offset + length] = bytes(length)
    check(max(0, offset - 600), min(playground, offset + length + 600))


def check(start, end):
    assert h.pread(end - start, start) == model[start:end], f"bytes {start}..{end} differ"


def unaligned_read():
    length, offset = somewhere()
    check(offset, offset + length)


def empty():
    offset = draw.randrange(h.get_size())
    refused(errno.EINVAL, *draw.choice([(h.pread, 0, offset), (h.pwrite, b"", offset), (h.trim, 0, offset),
                                        (h.zero, 0, offset), (h.cache, 0, offset)]))


def past_the_end():
    size = h.get_size()
    length = draw.randrange(1, 70_000)
    offset = draw.choice([size - length + 1, size, size + draw.randrange(1 << 40), (1 << 63) - length])
    code, what, argument = draw.choice([
        (errno.EINVAL, h.pread, length), (errno.ENOSPC, h.pwrite, bytes(length)), (errno.EINVAL, h.trim, length),
        (errno.ENOSPC, h.zero, length), (errno.EINVAL, h.cache, length)])
    refused(code, what, argument, offset)


def unknown_flag():
    flag = draw.choice(UNKNOWN_FLAGS)
    what, *arguments = draw.choice([(h.pread, 512, 0), (h.pwrite, bytes(512), 0), (h.trim, 512, 0),
                                    (h.zero, 512, 0), (h.cache, 512, 0), (h.flush,)])
    refused(errno.EINVAL, what, *arguments, flags=flag)


def too_large():
    if draw.random() < 0.1:
        refused(errno.EINVAL, h.pwrite, bytes((32 << 20) + 1), 0)
    else:
        refused(errno.EINVAL, h.pread, (32 << 20) + draw.randrange(1, 1 << 20), 0)


def hang_up():
    global h
    if draw.random() < 0.5:
        h.shutdown()
    h = connect()


h = connect()
# What is there is not ours: begin from a known state.
for start in range(0, playground, 32 << 20):
    h.trim(min(32 << 20, playground - start), start)
choices = [unaligned_write, unaligned_zero, unaligned_read, empty, past_the_end, unknown_flag, too_large, hang_up]
for number in range(rounds):
    step = draw.choice(choices)
    try:
        step()
    except Exception as error:
        sys.exit(f"round {number} of seed {seed}, {step.__name__}: {type(error).__name__} {error}")
h.flush()
h.shutdown()

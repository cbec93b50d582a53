"""Wrong requests through libnbd in non-strict mode, each with the error it must get.

usage: errors.py URI URI-OF-THE-SAME-READ-ONLY
"""

import errno
import sys

import nbd


def connect(uri, structured=True):
    handle = nbd.NBD()
    handle.set_strict_mode(0)
    handle.set_request_structured_replies(structured)
    if structured:
        handle.add_meta_context("base:allocation")
    handle.connect_uri(uri)
    return handle


def expect(code, what, *arguments, **named):
    try:
        what(*arguments, **named)
    except nbd.Error as error:
        assert error.errnum == code, f"{what.__name__}: {error}, not {errno.errorcode[code]}"
    else:
        raise AssertionError(f"{what.__name__} was not refused, which should give {errno.errorcode[code]}")


def extents(handle, length, offset, flags=0):
    found = []
    handle.block_status(length, offset, lambda context, at, entries, error: found.extend(entries), flags)
    return found


uri, uri_read_only = sys.argv[1:]
MIB = 1 << 20
UNKNOWN_FLAG = 1 << 9

for structured in (True, False):
    h = connect(uri, structured)
    size = h.get_size()
    # Nothing to do.
    expect(errno.EINVAL, h.pread, 0, 0)
    expect(errno.EINVAL, h.pwrite, b"", 0)
    expect(errno.EINVAL, h.trim, 0, 0)
    expect(errno.EINVAL, h.zero, 0, 0)
    expect(errno.EINVAL, h.cache, 0, 0)
    # Past the end.
    for offset in (size - 511, size, size + MIB, (1 << 63) - 512):
        expect(errno.EINVAL, h.pread, 512, offset)
        expect(errno.ENOSPC, h.pwrite, bytes(512), offset)
        expect(errno.ENOSPC, h.zero, 512, offset)
        expect(errno.EINVAL, h.trim, 512, offset)
        expect(errno.EINVAL, h.cache, 512, offset)
    # Flags that do not belong.
    expect(errno.EINVAL, h.pread, 512, 0, flags=UNKNOWN_FLAG)
    expect(errno.EINVAL, h.pwrite, bytes(512), 0, flags=UNKNOWN_FLAG)
    expect(errno.EINVAL, h.pwrite, bytes(512), 0, flags=nbd.CMD_FLAG_DF)
    expect(errno.EINVAL, h.trim, 512, 0, flags=nbd.CMD_FLAG_NO_HOLE)
    expect(errno.EINVAL, h.zero, 512, 0, flags=nbd.CMD_FLAG_REQ_ONE)
    expect(errno.EINVAL, h.flush, flags=UNKNOWN_FLAG)
    # Too large to be carried out, small enough to be taken.
    expect(errno.EINVAL, h.pread, 32 * MIB + 1, 0)
    expect(errno.EINVAL, h.pwrite, bytes(32 * MIB + 1), 0)
    # FUA is taken on anything; the largest request and the smallest are served.
    h.pread(512, 0, flags=nbd.CMD_FLAG_FUA)
    h.flush(flags=nbd.CMD_FLAG_FUA)
    h.pwrite(b"\xa5" * (32 * MIB), 1, flags=nbd.CMD_FLAG_FUA)
    assert h.pread(32 * MIB, 1) == b"\xa5" * (32 * MIB)
    h.pwrite(b"x", size - 1)
    assert h.pread(1, size - 1) == b"x"
    h.zero(3, 5, flags=nbd.CMD_FLAG_FAST_ZERO | nbd.CMD_FLAG_NO_HOLE)
    assert h.pread(5, 4) == b"\xa5\0\0\0\xa5"
    h.cache(40 * MIB, 0)
    h.trim(64 * MIB, 0)
    assert h.pread(MIB, 0) == bytes(MIB)
    if structured:
        expect(errno.EOVERFLOW, h.pread_structured, 32 * MIB + 1, 0, lambda *_: 0, flags=nbd.CMD_FLAG_DF)
        h.pread_structured(32 * MIB, 0, lambda *_: 0, flags=nbd.CMD_FLAG_DF)
        expect(errno.EINVAL, extents, h, 512, size)
        expect(errno.EINVAL, extents, h, 0, 0)
        expect(errno.EINVAL, extents, h, 512, 0, nbd.CMD_FLAG_DF)
        h.pwrite(bytes(4096), 4096)
        assert extents(h, 12288, 0) == [4096, 3, 4096, 0, 4096, 3], extents(h, 12288, 0)
        assert extents(h, 12288, 0, nbd.CMD_FLAG_REQ_ONE) == [4096, 3]
        assert extents(h, 5000, 1000) == [3096, 3, 1904, 0]
    else:
        expect(errno.EINVAL, h.pread_structured, 512, 0, lambda *_: 0, flags=nbd.CMD_FLAG_DF)
    h.shutdown()

h = connect(uri_read_only)
assert h.is_read_only()
expect(errno.EPERM, h.pwrite, bytes(512), 0)
expect(errno.EPERM, h.trim, 512, 0)
expect(errno.EPERM, h.zero, 512, 0)
h.pread(512, 0)
h.flush()
h.shutdown()

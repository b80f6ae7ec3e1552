# How a server refuses what it must refuse, and that the connection lives on after each refusal.
import sys
import nbd

uri, size, kind = sys.argv[1], int(sys.argv[2]), sys.argv[3]
h = nbd.NBD()
h.add_meta_context("dm-remap:state")
h.connect_uri(uri)
# Let libnbd send what it would refuse itself.
h.set_strict_mode(0)


def refused(expected, call, *args):
    try:
        call(*args)
    except nbd.Error as error:
        assert error.errno in expected, (error.errno, expected, call, args[1:])
    else:
        raise AssertionError(("not refused", call, args[1:]))
    assert h.aio_is_ready(), ("the connection is gone after", call, args[1:])


if kind == "limits":
    before = h.pread(512, size - 512)
    refused(["EINVAL"], h.pread, 512, size)
    refused(["EINVAL"], h.pread, 1024, size - 512)
    refused(["EINVAL"], h.pread, 512, (1 << 63) - 512)
    refused(["ENOSPC"], h.pwrite, b"x" * 512, size)
    refused(["ENOSPC"], h.pwrite, b"x" * 1024, size - 512)
    refused(["ENOSPC", "EINVAL"], h.zero, 1024, size - 512)
    refused(["EINVAL", "ENOSPC"], h.trim, 1024, size - 512)
    refused(["EINVAL"], h.pread, 512, 1)
    refused(["EINVAL"], h.pread, 100, 0)
    refused(["EINVAL"], h.pwrite, b"x" * 100, 0)
    refused(["EINVAL"], h.pwrite, b"x" * 512, 7)
    assert h.pread(512, size - 512) == before
elif kind == "read-only":
    assert h.is_read_only()
    refused(["EPERM"], h.pwrite, b"x" * 4096, 0)
    refused(["EPERM"], h.zero, 4096, 0)
    refused(["EPERM"], h.trim, 4096, 0)
    h.pread(4096, 0)
elif kind == "lost":
    # Sectors 100-103 and 109 are lost in a read of 64 KiB.
    good, bad = {}, []

    def chunk(data, offset, status, error):
        if status == nbd.READ_DATA:
            good[offset] = bytes(data)
        elif status == nbd.READ_ERROR:
            bad.append(offset)
        return 0

    def read():
        h.pread_structured(65536, 0, chunk)

    refused(["EIO"], read)
    assert sorted(bad) == [100 * 512, 109 * 512], bad
    with open(sys.argv[4], "rb") as image:
        contents = image.read(65536)
    covered = 0
    for offset, data in good.items():
        assert data == contents[offset:offset + len(data)], offset
        covered += len(data)
    assert covered == 65536 - 5 * 512, covered
    for sector in (100, 101, 102, 103, 109):
        refused(["EIO"], h.pread, 512, sector * 512)
    for sector in (99, 104, 108, 110):
        assert h.pread(512, sector * 512) == contents[sector * 512:sector * 512 + 512]
    # One of them overwritten heals, and only that one.
    h.pwrite(b"new!" * 128, 101 * 512)
    assert h.pread(512, 101 * 512) == b"new!" * 128
    refused(["EIO"], h.pread, 512, 100 * 512)
    refused(["EIO"], h.pread, 512, 102 * 512)
    # Zeroes are contents, too.
    h.zero(512, 109 * 512)
    assert h.pread(512, 109 * 512) == bytes(512)
    h.flush()
h.shutdown()
print("fine")

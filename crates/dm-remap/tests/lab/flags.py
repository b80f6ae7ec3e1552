# What a server must say of a healthy volume that takes writes, and how it answers every command.
import sys
import nbd

uri, size = sys.argv[1], int(sys.argv[2])
h = nbd.NBD()
h.add_meta_context("base:allocation")
h.add_meta_context("dm-remap:state")
h.connect_uri(uri)

assert h.get_size() == size, h.get_size()
assert not h.is_read_only()
for able in ("can_flush", "can_fua", "can_zero", "can_cache", "can_df", "can_multi_conn"):
    assert getattr(h, able)(), able
assert h.get_structured_replies_negotiated()
for context in ("base:allocation", "dm-remap:state"):
    assert h.can_meta_context(context), context
assert not h.can_meta_context("qemu:dirty-bitmap:x")
assert h.get_protocol() in ("newstyle-fixed",), h.get_protocol()
minimum = h.get_block_size(nbd.SIZE_MINIMUM)
assert minimum in (512, 4096), minimum
assert h.get_block_size(nbd.SIZE_MAXIMUM) >= 1 << 20


def extents(context):
    seen = []

    def status(metacontext, offset, entries, error):
        if metacontext == context:
            seen.extend(zip(entries[0::2], entries[1::2]))
        return 0

    h.block_status(size, 0, status)
    return seen


assert extents("dm-remap:state") == [(size, 0)], extents("dm-remap:state")

h.pwrite(b"A" * 65536, 0)
h.pwrite(b"B" * 4096, 65536, nbd.CMD_FLAG_FUA)
h.flush()
assert h.pread(69632, 0) == b"A" * 65536 + b"B" * 4096
h.zero(8192, 4096)
assert h.pread(16384, 0) == b"A" * 4096 + bytes(8192) + b"A" * 4096
h.zero(4096, 0, nbd.CMD_FLAG_NO_HOLE | nbd.CMD_FLAG_FUA)
assert h.pread(4096, 0) == bytes(4096)
h.cache(65536, 0)
if h.can_trim():
    h.trim(65536, 131072)
    h.trim(65536, 131072, nbd.CMD_FLAG_FUA)

# "Don't fragment" is for structured reads.
pieces = []
h.pread_structured(69632, 0, lambda data, offset, status, error: pieces.append((offset, len(data))) or 0, nbd.CMD_FLAG_DF)
assert pieces == [(0, 69632)], pieces

# Many at once, on one connection.
buffers = [nbd.Buffer.from_bytearray(bytearray([n]) * 4096) for n in range(64)]
cookies = [h.aio_pwrite(b, 1048576 + 4096 * n) for n, b in enumerate(buffers)]
for cookie in cookies:
    while not h.aio_command_completed(cookie):
        h.poll(-1)
assert h.pread(4096 * 64, 1048576) == b"".join(bytes([n]) * 4096 for n in range(64))
h.shutdown()
print("fine")

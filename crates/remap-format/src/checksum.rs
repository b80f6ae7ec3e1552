//! CRC32C, salted by the kind of record, so that a valid record of the wrong kind is recognised.

use crc::{CRC_32_ISCSI, Crc, Table};

static CRC: Crc<u32, Table<16>> = Crc::<u32, Table<16>>::new(&CRC_32_ISCSI);

/// The checksum of `bytes` with the four bytes at `hole` taken as zero and `salt` in front.
pub(crate) fn salted(salt: [u8; 4], bytes: &[u8], hole: usize) -> u32 {
    let mut digest = CRC.digest();
    digest.update(&salt);
    digest.update(bytes.get(..hole).unwrap_or(bytes));
    digest.update(&[0; 4]);
    digest.update(bytes.get(hole + 4..).unwrap_or(&[]));
    digest.finalize()
}

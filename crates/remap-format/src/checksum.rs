//! CRC32C, salted by the kind of record, so that a valid record of the wrong kind is recognised.

/// By the processor's own instruction where there is one (asked at run time), else by tables.
#[cfg(feature = "std")]
fn append(crc: u32, bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc, bytes)
}

/// By tables.
#[cfg(not(feature = "std"))]
fn append(crc: u32, bytes: &[u8]) -> u32 {
    use crc::{CRC_32_ISCSI, Crc, Table};
    static CRC: Crc<u32, Table<16>> = Crc::<u32, Table<16>>::new(&CRC_32_ISCSI);
    // What begins a digest is taken before its bits are reversed and inverted.
    let mut digest = CRC.digest_with_initial((!crc).reverse_bits());
    digest.update(bytes);
    digest.finalize()
}

/// The checksum of `bytes` with the four bytes at `hole` taken as zero and `salt` in front.
pub(crate) fn salted(salt: [u8; 4], bytes: &[u8], hole: usize) -> u32 {
    let before = bytes.get(..hole).unwrap_or(bytes);
    let behind = bytes.get(hole + 4..).unwrap_or(&[]);
    [&salt[..], before, &[0; 4], behind].into_iter().fold(0, append)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_crc32c_of_all_parts_in_a_row() {
        // The check value of the catalogue: of "123456789".
        assert_eq!(append(0, b"123456789"), 0xe306_9283);
        assert_eq!(append(append(0, b"1234"), b"56789"), 0xe306_9283);
        assert_eq!(salted(*b"1234", b"5????9", 1), append(0, b"12345\0\0\0\09"));
    }
}

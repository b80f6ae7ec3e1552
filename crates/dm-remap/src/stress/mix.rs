//! What a load asks for: streams of requests, side by side, as real users of disks send them.
//!
//! Invariant: shares of a hundred (`reads`, `discards`, `zeroes`) leave the rest to writes.

/// Where a stream's requests go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Anywhere in its part, at a multiple of the request's size.
    Random,
    /// One after the other, and from the start again at the end.
    Sequential,
}

/// One stream.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stream {
    /// How many of the requests are its, in terms of the other streams' shares.
    pub share: u64,
    /// First and last sixteenth of the volume (of each worker's part of it) that it uses.
    pub part: (u32, u32),
    pub place: Place,
    /// Sizes in units of 4 KiB, each with its weight.
    pub sizes: &'static [(u64, u32)],
    /// Of a hundred requests: reads, discards, requests to write zeroes.
    pub reads: u64,
    pub discards: u64,
    pub zeroes: u64,
    /// Of a hundred writes: those with FUA.
    pub fua: u64,
    /// Of a thousand requests: flushes.
    pub flushes: u64,
}

const RANDOM: Stream = Stream {
    share: 1,
    part: (0, 15),
    place: Place::Random,
    sizes: &[(1, 1)],
    reads: 70,
    discards: 0,
    zeroes: 0,
    fua: 0,
    flushes: 1,
};

/// As many requests as there can be: 4 KiB at random, seven reads to three writes, hardly a flush.
pub(crate) const CONCURRENT: &[Stream] = &[RANDOM];

/// A database (as the benchmarks of TPC-C's kind load a disk): pages of 8 and 16 KiB at random, seven reads to three writes, and a log that is
/// written in order, in small pieces, each of which is durable before the next transaction is acknowledged.
pub(crate) const DATABASE: &[Stream] = &[
    Stream { share: 85, part: (1, 15), sizes: &[(3, 2), (1, 4)], ..RANDOM },
    Stream {
        share: 15,
        part: (0, 0),
        place: Place::Sequential,
        sizes: &[(3, 1), (1, 4)],
        reads: 0,
        fua: 25,
        flushes: 100,
        ..RANDOM
    },
];

/// A file server (as filebench's `fileserver`): files of 4 KiB to 1 MiB, most of them small, four reads to a write, whole files read in order, and
/// small writes with FUA as a journal of metadata makes them.
pub(crate) const FILE_SERVER: &[Stream] = &[
    Stream {
        share: 60,
        part: (1, 15),
        sizes: &[(30, 1), (25, 4), (20, 16), (15, 32), (8, 64), (2, 256)],
        reads: 80,
        zeroes: 1,
        discards: 1,
        ..RANDOM
    },
    Stream {
        share: 25,
        part: (1, 15),
        place: Place::Sequential,
        sizes: &[(1, 32), (1, 64)],
        reads: 80,
        ..RANDOM
    },
    Stream { share: 15, part: (0, 0), sizes: &[(1, 1)], reads: 20, fua: 30, flushes: 20, ..RANDOM },
];

/// One guest of a virtualization host: 4 to 64 KiB at random in an image of its own, discards when it deletes, zeroes when it formats.
const fn guest(first: u32, last: u32, reads: u64) -> Stream {
    Stream {
        part: (first, last),
        sizes: &[(50, 1), (20, 2), (15, 4), (10, 8), (5, 16)],
        reads,
        discards: 3,
        zeroes: 1,
        flushes: 10,
        ..RANDOM
    }
}

/// A virtualization host: four guests with images of their own, of which one writes more than it reads, and one reads in order as at boot.
pub(crate) const VIRTUALIZATION: &[Stream] = &[
    guest(0, 3, 70),
    guest(4, 7, 60),
    guest(8, 11, 40),
    Stream { place: Place::Sequential, ..guest(12, 15, 80) },
];

/// All of them side by side.
pub(crate) const MIXED: &[Stream] = &[
    Stream { share: 28, part: (1, 6), ..DATABASE[0] },
    Stream { share: 5, ..DATABASE[1] },
    Stream { share: 20, part: (7, 11), ..FILE_SERVER[0] },
    Stream { share: 8, part: (7, 11), ..FILE_SERVER[1] },
    Stream { share: 5, ..FILE_SERVER[2] },
    Stream { share: 17, ..guest(12, 13, 65) },
    Stream { share: 17, ..guest(14, 15, 45) },
];

/// A data set that is large: it is loaded in long pieces, read at random in small ones, and scanned.
pub(crate) const LARGE: &[Stream] = &[
    Stream { share: 1, place: Place::Sequential, sizes: &[(1, 256)], reads: 0, ..RANDOM },
    Stream { share: 12, sizes: &[(4, 1), (2, 4), (1, 16)], reads: 60, ..RANDOM },
    Stream { share: 1, place: Place::Sequential, sizes: &[(1, 64)], reads: 100, ..RANDOM },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mixes_are_sound() {
        for mix in [CONCURRENT, DATABASE, FILE_SERVER, VIRTUALIZATION, MIXED, LARGE] {
            assert!(!mix.is_empty());
            for s in mix {
                assert!(s.share > 0 && s.part.0 <= s.part.1 && s.part.1 < 16, "{s:?}");
                assert!(s.reads + s.discards + s.zeroes <= 100 && s.fua <= 100 && s.flushes < 1000, "{s:?}");
                assert!(
                    s.sizes.iter().all(|&(weight, units)| weight > 0 && (1..=256).contains(&units)),
                    "{s:?}"
                );
            }
        }
    }
}

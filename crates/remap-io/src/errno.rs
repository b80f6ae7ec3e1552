//! From errno to [`Fault`]: the only place where the two meet.
//!
//! Invariant: [`classify`] is pure; what needs a look at the device (is its size 0 now?) is decided by the caller and
//! passed in as [`Backing`].

use remap_core::op::Fault;
use rustix::io::Errno;

/// What an errno comes from; the same number means different things.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backing {
    /// A block device that still has a size.
    Block,
    /// A block device whose size has become 0: it is not there any more.
    VanishedBlock,
    /// A regular file.
    File,
}

/// The fault that an errno of a device operation stands for.
pub(crate) fn classify(errno: Errno, backing: Backing) -> Fault {
    match errno {
        Errno::NODATA => Fault::Medium,
        Errno::ILSEQ => Fault::Protection,
        Errno::NOLINK => Fault::Transport,
        Errno::TIMEDOUT | Errno::TIME => Fault::Timeout,
        // ESTALE and ENOTCONN: network file systems and FUSE whose server went away.
        Errno::NODEV | Errno::NXIO | Errno::NOMEDIUM | Errno::STALE | Errno::NOTCONN => Fault::Gone,
        Errno::NOSPC | Errno::DQUOT | Errno::FBIG => match backing {
            Backing::File => Fault::NoSpace,
            // A fixed-size device cannot be full: the write was beyond an end that has moved to 0.
            Backing::Block | Backing::VanishedBlock => Fault::Gone,
        },
        // EINVAL is a request that the device cannot take as it is (alignment, operation): never the medium's fault.
        Errno::OPNOTSUPP
        | Errno::INVAL
        | Errno::NOSYS
        | Errno::NOTTY
        | Errno::ROFS
        | Errno::PERM
        | Errno::BADF => Fault::Unsupported,
        Errno::NOMEM => Fault::NoMemory,
        _ if backing == Backing::VanishedBlock => Fault::Gone,
        _ => Fault::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_of_the_table() {
        use Backing::{Block, File, VanishedBlock};
        let table = [
            (Errno::NODATA, Block, Fault::Medium),
            (Errno::NODATA, File, Fault::Medium),
            (Errno::ILSEQ, Block, Fault::Protection),
            (Errno::NOLINK, Block, Fault::Transport),
            (Errno::TIMEDOUT, Block, Fault::Timeout),
            (Errno::NODEV, Block, Fault::Gone),
            (Errno::NXIO, File, Fault::Gone),
            (Errno::STALE, File, Fault::Gone),
            (Errno::NOSPC, Block, Fault::Gone),
            (Errno::NOSPC, VanishedBlock, Fault::Gone),
            (Errno::NOSPC, File, Fault::NoSpace),
            (Errno::DQUOT, File, Fault::NoSpace),
            (Errno::OPNOTSUPP, Block, Fault::Unsupported),
            (Errno::INVAL, Block, Fault::Unsupported),
            (Errno::IO, Block, Fault::Unknown),
            (Errno::IO, File, Fault::Unknown),
            (Errno::IO, VanishedBlock, Fault::Gone),
            (Errno::REMOTEIO, Block, Fault::Unknown),
            (Errno::NOMEM, Block, Fault::NoMemory),
            (Errno::from_raw_os_error(4000), Block, Fault::Unknown),
        ];
        for (errno, backing, fault) in table {
            assert_eq!(classify(errno, backing), fault, "{errno:?} on {backing:?}");
        }
    }

    #[test]
    fn only_the_errors_of_a_medium_blame_it() {
        for raw in 1..134 {
            let errno = Errno::from_raw_os_error(raw);
            let blames = classify(errno, Backing::VanishedBlock).blames_medium();
            assert_eq!(blames, matches!(errno, Errno::NODATA | Errno::ILSEQ), "{errno:?}");
        }
    }
}
